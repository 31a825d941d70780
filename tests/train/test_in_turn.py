"""Full batches and parts in turn: Jang et al.'s schedules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from expunge.errors import DataError, RecipeError
from expunge.forget.ascent import GA
from expunge.train.loop import evaluator as by_heart
from expunge.train.loop.callbacks import Heartbeat
from expunge.train.loop.evaluator import MemorizationEvaluator, MemorizationLevels
from expunge.train.methods.in_turn import UnlearnInTurn, without_dropout
from expunge.train.run.recipe import load_recipe
from expunge.train.run.run import RunRequest, carry_out
from expunge.train.run.state import Corpus
from tests.train.runs import CORPUS, FORGET, SCOPES, TOKENIZER, model, recipe, run, unlearn, weights
from tests.train.test_resume import Killed

TURN: dict[str, Any] = {
    "name": "unlearn_in_turn",
    "forget": "ga",
    "learning_rate": 1e-3,
    "epochs": 2,
    "batch_size": 2,
    "max_length": 128,
}


def in_turn(**settings: Any) -> Any:
    return recipe(TURN | settings)


def test_a_step_is_the_whole_forget_set(tmp_path: Path) -> None:
    facts = run(in_turn(), tmp_path / "pieces")["stages"][0]
    assert (facts["stage"], facts["steps"]) == ("unlearn_in_turn", 2)
    run(in_turn(batch_size=5), tmp_path / "whole")
    run(unlearn(forget="ga", retain=None, epochs=2, batch_size=5), tmp_path / "plain")
    assert weights(tmp_path / "whole") == weights(tmp_path / "plain")


def test_pieces_of_a_step_change_nothing_but_rounding(tmp_path: Path) -> None:
    # 5 sequences in pieces of 2, 2 and 1 are one step, as are 5 at once.
    losses = []
    for size in (2, 5):
        history = run(in_turn(batch_size=size), tmp_path / str(size))["stages"][0]["history"]
        losses.append([entry["loss"] for entry in history])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_parts_in_turn_are_runs_one_after_the_other(tmp_path: Path) -> None:
    record = run(in_turn(chunk=2), tmp_path / "turn")
    (facts,) = record["stages"]
    assert [part["examples"] for part in facts["chunks"]] == [["f0", "f1"], ["f2", "f3"], ["f4"]]
    assert [part["steps"] for part in facts["chunks"]] == [2, 2, 2]
    assert facts["steps"] == 6
    held = model()
    for place, part in enumerate((FORGET[:2], FORGET[2:4], FORGET[4:])):
        request = RunRequest(
            command="unlearn", recipe=in_turn(), source="-", corpus=Corpus(forget=part), seed=0
        )
        carry_out(request, lambda: (held, TOKENIZER), tmp_path / f"part{place}")
    assert weights(tmp_path / "part2") == weights(tmp_path / "turn")


def die_in(folder: str, step: int, patch: pytest.MonkeyPatch) -> None:
    def die(_self: Any, args: Any, state: Any, *_: Any, **__: Any) -> None:
        if Path(args.output_dir).name == folder and state.global_step == step:
            raise Killed

    patch.setattr(Heartbeat, "on_step_end", die)


@pytest.mark.parametrize(
    "settings",
    [{}, {"scope": SCOPES["lora"]}, {"precision": "bf16_stochastic", "learning_rate": 1e-2}],
    ids=["whole model", "lora", "bf16"],
)
def test_killed_in_the_second_part(settings: dict[str, Any], tmp_path: Path) -> None:
    chosen = in_turn(chunk=2, **settings)
    whole = run(chosen, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        die_in("chunk-1", 2, patch)
        with pytest.raises(Killed):
            run(chosen, tmp_path / "out")
    partial = tmp_path / "out.partial" / "stage-0"
    assert (partial / "chunk-0" / "complete").exists()
    assert not list((partial / "chunk-0").glob("checkpoint-*"))
    begun: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Heartbeat, "on_step_end", lambda _, args, *a, **b: begun.append(Path(args.output_dir).name)
        )
        again = run(chosen, tmp_path / "out")
    assert begun == ["chunk-1", "chunk-2", "chunk-2"]
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
    assert again["stages"] == whole["stages"]


def test_every_part_has_the_levels_of_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {
        tuple(one.id for one in CORPUS.holdout): [MemorizationLevels(0.1, 0.3)],
        ("f0", "f1", "f2", "f3", "f4"): [MemorizationLevels(1.0, 1.0)],
        ("f0", "f1", "f2"): [
            MemorizationLevels(1.0, 1.0),
            MemorizationLevels(0.1, 0.4),
            MemorizationLevels(0.1, 0.3),
        ],
        ("f3", "f4"): [MemorizationLevels(0.9, 0.9), MemorizationLevels(0.0, 0.0)],
    }
    monkeypatch.setattr(
        MemorizationEvaluator,
        "measure",
        lambda _, __, ___, examples, ____: told[tuple(e.id for e in examples)].pop(0),
    )
    (facts,) = run(in_turn(chunk=3, epochs=9, stop={"memorised": {}}), tmp_path / "out")["stages"]
    assert [part["steps"] for part in facts["chunks"]] == [2, 1]
    assert [part["stop"]["reached"] for part in facts["chunks"]] == [True, True]
    assert [part["stop"]["levels"] for part in facts["chunks"]] == [{"el": 0.1, "ma": 0.3}] * 2
    assert facts["chunks"][1]["stop"]["before"] == {"el": 0.9, "ma": 0.9}
    assert not any(told.values())  # unseen text was looked at once, before anything changed


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (0.25, 0.5)),
        ({"el_at_most": 0.1}, (0.1, 0.5)),
        ({"el_at_most": 0.1, "ma_at_most": 0.2}, (0.1, 0.2)),
    ],
)
def test_a_level_left_out_is_that_of_unseen_text(
    settings: dict[str, float], expected: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = MemorizationEvaluator(**settings)
    monkeypatch.setattr(MemorizationEvaluator, "measure", lambda *_: MemorizationLevels(0.25, 0.5))
    assert rule.levels(nn.Module(), None, CORPUS.holdout, 128) == expected
    assert rule.needs_holdout is (len(settings) < 2)


def test_what_is_known_by_heart_is_measured() -> None:
    rule = MemorizationEvaluator(n=3)
    found = rule.measure(model(), TOKENIZER, FORGET, 128)
    assert all(0 <= value <= 1 for value in found)
    with pytest.raises(DataError, match="none of the texts has a value: the text is too short for 99"):
        MemorizationEvaluator(n=99).measure(model(), TOKENIZER, FORGET, 128)
    assert by_heart.MemorizationLevels._fields == ("el", "ma")


def test_a_rule_against_unseen_text_needs_some(tmp_path: Path) -> None:
    chosen = in_turn(stop={"memorised": {}})
    assert chosen.stages[0].needs == {"holdout"}
    with pytest.raises(DataError, match="no holdout"):
        run(chosen, tmp_path / "out", corpus=Corpus(forget=FORGET))
    spans = in_turn(stop={"memorised": {"of": "spans"}})
    with pytest.raises(DataError, match="holdout without spans"):
        run(spans, tmp_path / "out")
    given = in_turn(stop={"memorised": {"el_at_most": 0, "ma_at_most": 1}})
    assert given.stages[0].needs == set()


def test_a_run_goes_on_until_its_least_number_of_epochs(tmp_path: Path) -> None:
    rule = {"memorised": {"el_at_most": 1, "ma_at_most": 1, "n": 3}, "min_epochs": 2}
    (facts,) = run(in_turn(epochs=5, stop=rule), tmp_path / "out")["stages"]
    assert facts["steps"] == 2
    assert len(facts["stop"]["history"]) == 2


def test_measurements_before_a_kill_stay_in_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        MemorizationEvaluator,
        "measure",
        lambda _, held, *__: MemorizationLevels(1.0, float(held.lm_head.weight.detach().norm())),
    )
    chosen = in_turn(epochs=3, stop={"memorised": {"el_at_most": 0, "ma_at_most": 0}})
    whole = run(chosen, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        die_in("chunk-0", 3, patch)
        with pytest.raises(Killed):
            run(chosen, tmp_path / "out")
    assert run(chosen, tmp_path / "out")["stages"] == whole["stages"]
    assert [found["epoch"] for found in whole["stages"][0]["stop"]["history"]] == [1, 2, 3]


def test_dropout_is_off_unless_asked_for(tmp_path: Path) -> None:
    noisy = model("gpt2", embd_pdrop=0.3, resid_pdrop=0.3, attn_pdrop=0.3)
    rates = [module.p for module in noisy.modules() if isinstance(module, nn.Dropout)]
    with without_dropout(noisy):
        assert {module.p for module in noisy.modules() if isinstance(module, nn.Dropout)} == {0.0}
    assert [module.p for module in noisy.modules() if isinstance(module, nn.Dropout)] == rates
    llama = model("llama", attention_dropout=0.5)
    attention = llama.model.layers[0].self_attn
    with without_dropout(llama):
        assert attention.attention_dropout == 0
    assert attention.attention_dropout == 0.5
    losses = []
    for asked in (False, True):
        request = RunRequest(
            command="unlearn", recipe=in_turn(dropout=asked, epochs=1), source="-", corpus=CORPUS
        )
        fresh = model("gpt2", embd_pdrop=0.3, resid_pdrop=0.3, attn_pdrop=0.3)
        done = carry_out(request, lambda m=fresh: (m, TOKENIZER), tmp_path / str(asked))
        losses.append(done["stages"][0]["history"][0]["loss"])
    still = model("gpt2")
    request = RunRequest(command="unlearn", recipe=in_turn(epochs=1), source="-", corpus=CORPUS)
    plain = carry_out(request, lambda: (still, TOKENIZER), tmp_path / "still")
    assert losses[0] == plain["stages"][0]["history"][0]["loss"] != losses[1]


def test_parts_have_no_targets_of_their_own() -> None:
    with pytest.raises(RecipeError, match="leave chunk out"):
        in_turn(forget="generic", chunk=2)
    assert in_turn(forget="generic")


@pytest.mark.parametrize("name", ["knowledge_unlearning", "knowledge_unlearning_sequential"])
def test_the_published_settings_are_those_of_the_recipe(name: str) -> None:
    (stage,) = load_recipe(name).stages
    assert isinstance(stage, UnlearnInTurn)
    assert (stage.learning_rate, stage.betas, stage.epochs, stage.max_length) == (
        5e-5,
        (0.9, 0.98),
        20,
        200,
    )
    assert stage.forget == GA()
    assert stage.stop is not None
    assert stage.stop.memorised == MemorizationEvaluator(n=10, tokens=200)
    assert stage.chunk == (32 if name.endswith("sequential") else None)
