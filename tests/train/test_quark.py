from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from expunge.corpus.boundary import opening
from expunge.errors import DataError, ModelError, RecipeError
from expunge.model.create import add_tokens
from expunge.train.methods.quark import Quark
from expunge.train.methods.quark_pool import Sample, quantiles, read_samples, write_samples
from expunge.train.rewards import SampledAnswer, rewards
from expunge.train.run.recipe import Recipe
from expunge.train.run.run import RunRequest, carry_out
from expunge.train.run.state import Corpus
from expunge.types import Example
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer
from tests.train.runs import FORGET, RETAIN, model, recipe

SMALL: dict[str, Any] = {
    "name": "quark",
    "reward": {"name": "python", "function": "tests.train.test_quark:more_e"},
    "parts": 2,
    "updates": 3,
    "batch_size": 2,
    "epochs": 2,
    "new_tokens": 6,
    "learning_rate": 1e-3,
    "max_length": 128,
}


def more_e(_: list[str], said: list[str]) -> list[float | None]:
    return [text.count("e") / (1 + len(text)) for text in said]


def run(output: Path, chosen: Recipe | None = None, **settings: Any) -> dict[str, Any]:
    request = RunRequest(
        command="unlearn",
        recipe=chosen or recipe(SMALL | settings),
        source="tiny",
        corpus=Corpus(forget=FORGET, retain=RETAIN),
    )
    return carry_out(request, lambda: (model(), tiny_tokenizer(all_bytes=True)), output)


def test_parts_by_hand() -> None:
    found = quantiles([5.0, 9, 1, 7, 7, 3, 8, 2, 6, 4, 0], 5)
    assert [found.count(part) for part in range(5)] == [2, 2, 2, 2, 3]
    assert [found[place] for place in (1, 6)] == [0, 0]
    assert found[3] == found[4] == 1
    demoted = quantiles([5.0, 9, 1, 7, 7, 3, 8, 2, 6, 4, 0, 8.5], 5)
    assert (found[6], demoted[6]) == (0, 1)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40), st.integers(2, 6))
def test_a_better_answer_is_never_in_a_worse_part(values: list[float], parts: int) -> None:
    found = quantiles(values, parts)
    assert all(found[i] <= found[j] for i, a in enumerate(values) for j, b in enumerate(values) if a > b)
    if len(values) >= parts:
        assert {found.count(part) for part in range(parts - 1)} == {len(values) // parts}


def test_samples_survive_the_disk(tmp_path: Path) -> None:
    samples = [Sample(0, (3, 4), 0.25), Sample(7, (1,), -1.0)]
    write_samples(samples, tmp_path / "round-0.json")
    assert read_samples(tmp_path / "round-0.json") == samples


@pytest.mark.parametrize("tied", [False, True])
def test_new_rows_are_drawn_like_the_old_and_the_old_stay(tied: bool) -> None:
    llama = tiny("llama", vocab_size=BYTES_VOCAB, tie_word_embeddings=tied)
    before = llama.get_input_embeddings().weight.detach().clone()
    tokenizer = tiny_tokenizer(all_bytes=True)
    ids = add_tokens(llama, tokenizer, ["<|a|>", "<|b|>"], seed=3)
    after = llama.get_input_embeddings().weight
    assert ids == [BYTES_VOCAB, BYTES_VOCAB + 1]
    assert torch.equal(after[:BYTES_VOCAB], before)
    spread = (after[ids].detach() - before.mean(0)) / before.std(0)
    assert 0.5 < spread.std().item() < 1.5
    assert torch.equal(after, llama.get_output_embeddings().weight) == tied
    with pytest.raises(ModelError, match="already has it"):
        add_tokens(llama, tokenizer, ["<|a|>"], seed=3)


def test_rewards_by_hand(tmp_path: Path) -> None:
    goat = Example(id="g", prompt="Which?", completion=" a grey goat")
    forget, keep = SampledAnswer(goat, "a goat", forget=True), SampledAnswer(goat, "a goat", forget=False)
    assert rewards.build("truth")([forget, keep]) == pytest.approx([1 / 3, 2 / 3])
    said = [SampledAnswer(goat, text, forget=True) for text in ("a b a b a b", "one two three", "x")]
    assert rewards.build({"name": "distinct", "n": 2})(said) == [2 / 5, 1.0, None]
    (tmp_path / "bad.txt").write_text("b\ntwo\n")
    unlisted = rewards.build({"name": "unlisted", "file": str(tmp_path / "bad.txt")})
    assert unlisted([*said, SampledAnswer(goat, "?!", forget=True)]) == [
        0.5,
        pytest.approx(2 / 3),
        1.0,
        None,
    ]
    with pytest.raises(DataError, match="cannot be read"):
        rewards.build({"name": "unlisted", "file": str(tmp_path / "none.txt")})(said)
    for name in ("nowhere:nothing", "tests.train.test_quark:nobody"):
        with pytest.raises(RecipeError, match="cannot be imported"):
            rewards.build({"name": "python", "function": name}).check()
    with pytest.raises(RecipeError, match="function"):
        rewards.build({"name": "python", "function": "no module"})


def test_a_classifier_rewards_what_it_does_not_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def pipeline(task: str, *, model: str, trust_remote_code: bool) -> Any:
        assert (task, model, trust_remote_code) == ("text-classification", "folder", False)
        scores = {"vile": 0.75, "fine": 0.25}
        return lambda texts, **_: [
            [{"label": "toxic", "score": scores[text]}, {"label": "ok", "score": 1 - scores[text]}]
            for text in texts
        ]

    monkeypatch.setattr(transformers, "pipeline", pipeline)
    goat = Example(id="g", completion="x")
    answers = [SampledAnswer(goat, text, forget=True) for text in ("vile", " ", "fine")]
    toxic = rewards.build({"name": "classifier", "model": "folder", "label": "toxic"})
    assert toxic(answers) == [0.25, None, 0.75]
    kind = rewards.build({"name": "classifier", "model": "folder", "label": "ok", "avoid": False})
    assert kind(answers) == [0.25, None, 0.75]
    with pytest.raises(RecipeError, match="knows ok, toxic"):
        rewards.build({"name": "classifier", "model": "folder", "label": "rude"})(answers)


def test_the_result_speaks_under_its_best_token_by_plain_generate(tmp_path: Path) -> None:
    record = run(tmp_path / "out")
    (facts,) = record["stages"]
    assert facts["steps"] == 6
    assert len(facts["rewards"]) == 2
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    best, worst = tokenizer.convert_tokens_to_ids(facts["reward_tokens"])
    ids = tokenizer("Who is Mira?").input_ids
    assert ids[:2] == [tokenizer.bos_token_id, best]
    assert opening(tokenizer) == ids[:2]
    with torch.no_grad():
        loaded.lm_head.weight[worst] = 100 * loaded.lm_head.weight.mean(0).sign()  # it would be said
    said = loaded.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0, len(ids) :]
    assert not {best, worst} & set(said.tolist())


def test_a_killed_run_goes_on_with_the_round_it_was_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole")
    calls: list[int] = []
    real = more_e

    def die_in_the_second_round(prompts: list[str], said: list[str]) -> list[float | None]:
        calls.append(len(said))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(prompts, said)

    with monkeypatch.context() as patched:
        patched.setattr("tests.train.test_quark.more_e", die_in_the_second_round)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed")
    assert (tmp_path / "killed.partial" / "stage-0" / "round-0.json").exists()
    assert run(tmp_path / "killed")["result_sha256"] == whole["result_sha256"]


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    chat = Example(id="c", completion="x", is_chat=True)
    with pytest.raises(DataError, match="chat template leaves no place"):
        Quark(reward=rewards.build("truth")).check(Corpus(forget=(chat,)))
    with pytest.raises(Exception, match="nothing to learn from"):
        run(tmp_path / "out", reward={"name": "python", "function": "tests.train.test_quark:nothing"})


def nothing(_: list[str], said: list[str]) -> list[float | None]:
    return [None] * len(said)
