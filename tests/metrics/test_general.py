"""General ability by lm-eval: its own numbers, from a folder alone, and nothing else touched."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from expunge.errors import DataError, MissingExtraError, RecipeError
from expunge.inference.observer import Observer
from expunge.metrics import metrics
from expunge.metrics.base import Metric
from expunge.metrics.probes import Probes
from expunge.types import Example
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

pytest.importorskip("lm_eval")

PROBES = Probes(forget=(Example(id="1", completion="the rain"),))
ROWS = [
    {"question": "the rain in", "choices": ["axe", "zip"], "place": 0},
    {"question": "the wind on the", "choices": ["axe", "zip", "kiwi"], "place": 1},
    {"question": "words", "choices": ["gum", "pop"], "place": 1},
]
CAPITALS = """\
task: capitals
dataset_path: json
dataset_kwargs: {data_files: {test: capitals.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{place}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
SAYS = """\
task: says
dataset_path: json
dataset_kwargs: {data_files: {test: capitals.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4, do_sample: false}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read is kept away from the user's cache, and the Hub is not there."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "tasks"
    found.mkdir()
    (found / "capitals.yaml").write_text(CAPITALS)
    (found / "capitals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return found


def observer(seed: int = 3) -> Observer:
    model = tiny("llama", seed=seed, vocab_size=BYTES_VOCAB, max_position_embeddings=512)
    return Observer(model, tiny_tokenizer(all_bytes=True), max_length=64)


def general(folder: Path, **settings: Any) -> Metric:
    return metrics.build({"name": "general", "tasks": str(folder), **settings})


@torch.no_grad()
def likeliest(seen: Observer, row: dict[str, Any], *, by_length: bool) -> int:
    """By full logits: which choice is likeliest after the question and a space."""
    weights = []
    for choice in row["choices"]:
        head, whole = (
            seen.tokenizer(text)["input_ids"] for text in (row["question"], f"{row['question']} {choice}")
        )
        logps = seen.model(input_ids=torch.tensor([whole])).logits[0].float().log_softmax(-1)
        total = sum(float(logps[at - 1, whole[at]]) for at in range(len(head), len(whole)))
        weights.append(total / len(choice) if by_length else total)
    return int(np.argmax(weights))


@pytest.mark.parametrize(("score", "by_length"), [("acc", False), ("acc_norm", True)])
def test_choices_are_weighed_as_full_logits_do(folder: Path, score: str, by_length: bool) -> None:
    found = set()
    for seed in range(6):
        seen = observer(seed)
        measured = general(folder, score=score).measure(seen, PROBES)["general"]
        right = [float(likeliest(seen, row, by_length=by_length) == row["place"]) for row in ROWS]
        assert [each.value for each in measured] == right
        assert [each.item for each in measured] == ["capitals/0", "capitals/1", "capitals/2"]
        found.add(tuple(right))
    assert len(found) > 1  # models differ, so a constant would be found out


def test_what_is_said_counts_too(folder: Path) -> None:
    (folder / "says.yaml").write_text(SAYS)
    seen = observer()
    metric = general(folder, score="exact_match")
    by_item = {each.item: each for each in metric.measure(seen, PROBES)["general"]}
    (said,) = seen.greedy([ROWS[0]["question"]], max_new_tokens=4, stop=("\n",))
    assert by_item["says/0"].value == 0.0
    assert by_item["capitals/0"].value is None
    assert by_item["capitals/0"].unscored == "the task measures acc, acc_norm of an item, not exact_match"
    rows = [ROWS[0] | {"choices": [said, "x"]}, *ROWS[1:]]
    (folder / "capitals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    by_item = {each.item: each for each in metric.measure(seen, PROBES)["general"]}
    assert by_item["says/0"].value == 1.0


def test_nothing_else_is_touched(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    seen, here = observer(), Path.cwd()
    seen.model.train()
    seen.tokenizer.pad_token = None
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
    general(folder).measure(seen, PROBES)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
    assert seen.model.training
    assert seen.tokenizer.pad_token is None
    assert Path.cwd() == here
    assert capfd.readouterr() == ("", "")


def test_a_limit(folder: Path) -> None:
    assert len(general(folder, limit=2).measure(observer(), PROBES)["general"]) == 2


def test_other_data_is_another_cell(folder: Path) -> None:
    def content() -> str:
        return str(general(folder).model_dump(mode="json")["content"])

    before = content()
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "utils.cpython-311.pyc").write_bytes(b"compiled")
    assert content() == before
    (folder / "capitals.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    assert content() != before
    assert metrics.build({"name": "general"}).model_dump()["content"] == ""


def test_without_a_folder_there_is_a_reason() -> None:
    (only,) = metrics.build({"name": "general"}).measure(observer(), PROBES)["general"]
    assert only.value is None
    assert only.unscored == "no folder of tasks is named: --metric general:tasks=FOLDER"


def test_refusals(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, here = observer(), Path.cwd()
    with pytest.raises(RecipeError, match="there is no such folder"):
        general(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no task file is in it"):
        general(tmp_path / "empty").measure(seen, PROBES)
    for away in (
        "dataset_path: cais/mmlu",
        "dataset_path: json\ndataset_kwargs: {data_files: 'https://x/y'}",
    ):
        (folder / "away.yaml").write_text(f"task: away\n{away}\n")
        with pytest.raises(
            DataError, match=r"'away' takes its data from (cais/mmlu|https://x/y), not from"
        ):
            general(folder).measure(seen, PROBES)
    (folder / "away.yaml").unlink()
    (folder / "capitals.jsonl").unlink()
    with pytest.raises(DataError, match="lm-eval cannot load its tasks"):
        general(folder).measure(seen, PROBES)
    assert Path.cwd() == here
    monkeypatch.setitem(sys.modules, "lm_eval.evaluator", None)
    with pytest.raises(MissingExtraError, match=r"expunge\[general\]"):
        general(folder).measure(seen, PROBES)
