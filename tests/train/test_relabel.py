from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.errors import DataError, RecipeError
from expunge.train.methods.relabel import Relabel
from expunge.train.run.state import Corpus, State
from tests.train.runs import FORGET, TOKENIZER, UNLEARN, model, recipe, run, unlearn, weights

TRAIN = {"learning_rate": 1e-3, "epochs": 2, "batch_size": 5, "max_length": 128}
REINFORCE = {"name": "finetune", "on": "forget"} | TRAIN
RELABEL = {"name": "relabel", "max_length": 128}
IMITATE = {"name": "unlearn", "forget": {"name": "generic"}} | TRAIN


def relabelled(tmp_path: Path, reinforced: Any = None, **settings: Any) -> State:
    state = State(
        model=reinforced if reinforced is not None else model(),
        tokenizer=TOKENIZER,
        corpus=Corpus(forget=FORGET),
        workdir=tmp_path,
        source=model,
    )
    return Relabel(max_length=128, **settings).run(state)


def anchored(tmp_path: Path, **terms: str) -> Path:
    path = tmp_path / "anchors.json"
    path.write_text(json.dumps(terms))
    return path


def test_a_model_that_was_not_reinforced_predicts_what_it_always_did(tmp_path: Path) -> None:
    state = relabelled(tmp_path)
    assert state.targets is not None
    for target in state.targets:
        ids = torch.tensor([target.encoded.input_ids])
        said = model()(ids).logits[0, :-1].argmax(-1)
        wanted = torch.tensor(target.encoded.mask[1:])
        assert torch.equal(target.entries_NK[:, 0], said[wanted])
    assert state.facts[-1]["tokens"] == sum(len(target.entries_NK) for target in state.targets)


def test_what_reinforcement_raises_is_not_predicted_any_more(tmp_path: Path) -> None:
    reinforced = model()
    favourite = int(relabelled(tmp_path).targets[0].entries_NK[0, 0])  # type: ignore[index]
    with torch.no_grad():
        reinforced.lm_head.weight[favourite] *= 3
    state = relabelled(tmp_path, reinforced)
    assert state.targets is not None
    plain = relabelled(tmp_path).targets
    assert plain is not None
    assert any(
        not torch.equal(a.entries_NK, b.entries_NK) for a, b in zip(state.targets, plain, strict=True)
    )
    same = relabelled(tmp_path, reinforced, alpha=0.0).targets
    assert same is not None
    assert all(torch.equal(a.entries_NK, b.entries_NK) for a, b in zip(same, plain, strict=True))


def test_a_name_already_replaced_is_lowered_after_its_first_occurrence_and_not_before(
    tmp_path: Path,
) -> None:
    anchors = anchored(tmp_path, Mira="Jo")
    settings = {"anchors": anchors, "target": "soft", "top_k": 287}
    before, after = (relabelled(tmp_path, lowered=by, **settings).targets for by in (0.0, 10.0))
    assert before is not None
    assert after is not None
    (first,) = TOKENIZER(" Jo", add_special_tokens=False).input_ids[:1]
    (plain,) = TOKENIZER("Jo", add_special_tokens=False).input_ids[:1]

    def shares(target: Any, row: int) -> dict[int, float]:
        pairs = zip(target.entries_NK[row].tolist(), target.shares_NK[row].tolist(), strict=True)
        return dict(pairs)

    own, lowered = before[0], after[0]  # "Mira Oswick was born in Arlen ..."
    assert shares(own, 0) == shares(lowered, 0)
    for token in (first, plain):
        assert shares(lowered, 1)[token] < 1e-3 * shares(own, 1)[token]


def test_soft_targets_are_distributions(tmp_path: Path) -> None:
    for target in relabelled(tmp_path, target="soft", top_k=7).targets or ():
        assert target.entries_NK.shape == target.shares_NK.shape == (sum(target.encoded.mask), 7)
        torch.testing.assert_close(target.shares_NK.sum(1), torch.ones(len(target.shares_NK)))


def test_three_stages_make_the_method_and_a_killed_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = recipe(REINFORCE, RELABEL | {"anchors": str(anchored(tmp_path, Mira="Jo"))}, IMITATE)
    record = run(stages, tmp_path / "whole")
    assert [facts["stage"] for facts in record["stages"]] == ["finetune", "relabel", "unlearn"]
    assert record["stages"][1]["changed"] <= record["stages"][1]["tokens"]

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Relabel, "run", die)
        with pytest.raises(KeyboardInterrupt):
            run(stages, tmp_path / "killed")
    assert run(stages, tmp_path / "killed")["result_sha256"] == record["result_sha256"]
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    "extra",
    [
        {"retain": {"name": "klr", "weight": 2.0}},
        {"retain": {"name": "gdr"}, "scope": {"name": "lora", "rank": 2}},
        {"adversary": {"name": "fake_quant", "quantizer": "int4"}},
    ],
    ids=["klr", "gdr with lora", "fake quantization"],
)
def test_targets_go_with_every_other_axis(extra: dict[str, Any], tmp_path: Path) -> None:
    record = run(recipe(RELABEL, IMITATE | extra), tmp_path / "out")
    assert record["stages"][1]["steps"] == 2
    assert record["result_sha256"] != record["source_sha256"]


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="without targets"):
        run(unlearn(forget={"name": "generic"}, retain=None), tmp_path / "out")
    nobody = Relabel(anchors=anchored(tmp_path, Harry="Jon"))
    with pytest.raises(DataError, match="not one of its terms"):
        nobody.check(Corpus(forget=FORGET))
    assert UNLEARN["forget"] != {"name": "generic"}
