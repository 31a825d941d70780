from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.corpus.batching import collate
from expunge.corpus.tokenise import encode
from expunge.edit.requests import load_requests
from expunge.errors import DataError, ModelError, TrainingError
from expunge.inference.forward import compute_token_view
from expunge.inference.token_view import TokenView
from expunge.model.load import load_model
from expunge.train.methods.eul import AlternateSettings, AlternatingLoop, Phase, UnlearnByLayers
from expunge.train.run.state import Corpus
from tests.train.runs import CORPUS, FORGET, RETAIN, TOKENIZER, model, recipe, run

SMALL: dict[str, Any] = {
    "name": "eul",
    "rank": 4,
    "cap": 20.0,
    "lm_weight": 1.0,
    "task_weight": 0.2,
    "learning_rate": 5e-2,
    "epochs": 10,
    "batch_size": 3,
    "max_length": 128,
}
FIRST, SECOND = FORGET[:2], FORGET[2:]


def likelihood(found: Any, examples: Any) -> float:
    """Mean log-probability of the examples' tokens."""
    pieces = [one for example in examples for one in encode(example, TOKENIZER, max_length=128)]
    with torch.no_grad():
        view = compute_token_view(found, collate(pieces, pad_id=0))
        return float(view.mean(view.logps).mean())


def view(kl: list[float], logps: list[float]) -> TokenView:
    return TokenView(
        logps=torch.tensor([logps]), kl=torch.tensor([kl]), mask=torch.ones(1, len(kl), dtype=torch.bool)
    )


def test_the_two_losses_by_hand() -> None:
    stage = UnlearnByLayers(kl_weight=0.8, task_weight=2.0, lm_weight=0.2, cap=6.0)
    # KL 1 and 9 (capped at 6): mean 3.5; -log p 2 and 10 (capped at 6): mean 4.
    assert float(stage.forgetting(view([1.0, 9.0], [-2.0, -10.0]))) == pytest.approx(-3.5 - 0.2 * 4)
    assert float(stage.keeping(view([1.0, 9.0], [-2.0, -10.0]))) == pytest.approx(0.8 * 5 + 2 * 6)


def test_it_forgets_beside_frozen_weights(tmp_path: Path) -> None:
    record = run(recipe(SMALL), tmp_path / "out")["stages"][0]
    result, source = load_model(tmp_path / "out"), model()
    assert likelihood(result, FORGET) < likelihood(source, FORGET) - 0.5
    assert likelihood(result, FORGET) < likelihood(result, RETAIN) - 0.5
    assert record["steps"] == 10 * (2 + 2)
    assert record["weights"] == 2 * 2 * 4 * 32
    before = dict(source.named_parameters())
    changed = {name for name, weight in result.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {f"model.layers.{block}.mlp.down_proj.weight" for block in range(2)}


def test_a_later_request_is_fused_with_an_earlier_one(tmp_path: Path) -> None:
    def forgetting(examples: Any, name: str, **settings: Any) -> Any:
        run(recipe({**SMALL, **settings}), tmp_path / name, corpus=replace(CORPUS, forget=examples))
        return load_model(tmp_path / name)

    first, second = forgetting(FIRST, "first"), forgetting(SECOND, "second")
    both = forgetting(SECOND, "both", past=[str(tmp_path / "first")])
    source = model()
    assert len(load_requests([tmp_path / "both"])) == 2
    for examples, alone in ((FIRST, first), (SECOND, second)):
        drop = likelihood(source, examples) - likelihood(alone, examples)
        assert likelihood(source, examples) - likelihood(both, examples) > drop / 3 > 0.1
    # The layer that was learnt second is the one learnt alone: the first request did not touch it.
    again = load_requests([tmp_path / "both"])[1].layers
    for name, layer in load_requests([tmp_path / "second"])[0].layers.items():
        assert torch.equal(layer.up_HR, again[name].up_HR)


def test_keeping_a_gram_matrix_of_the_retain_set_spares_it(tmp_path: Path) -> None:
    for keep in (0.0, 10.0):
        run(recipe({**SMALL, "keep": keep}), tmp_path / str(keep))
    source = likelihood(model(), RETAIN)
    plain, spared = (likelihood(load_model(tmp_path / name), RETAIN) for name in ("0.0", "10.0"))
    assert abs(spared - source) < abs(plain - source)


def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(recipe(SMALL), tmp_path / "whole")
    real = AlternatingLoop._epoch_of

    def die(self: AlternatingLoop, place: int, aim: Phase) -> float:
        if self.epoch == 2 and place == 1:
            raise KeyboardInterrupt
        return real(self, place, aim)

    with monkeypatch.context() as patch:
        patch.setattr(AlternatingLoop, "_epoch_of", die)
        with pytest.raises(KeyboardInterrupt):
            run(recipe(SMALL), tmp_path / "killed")
    assert run(recipe(SMALL), tmp_path / "killed")["result_sha256"] == whole["result_sha256"]


def test_each_aim_has_moments_of_its_own() -> None:
    # Two aims that pull one weight apart, one ten times as hard: Adam's steps are of one size.
    module = torch.nn.Linear(1, 1, bias=False)
    start = float(module.weight.detach())
    aims = [
        Phase(name="up", items=1, loss=lambda _: -10 * module.weight.sum()[None]),
        Phase(name="down", items=1, loss=lambda _: module.weight.sum()[None]),
    ]
    settings = AlternateSettings(epochs=5, learning_rate=0.1, warmup=0.0)
    alternation = AlternatingLoop(module, aims, settings, seed=0)
    for _ in range(2):
        for place, aim in enumerate(aims):
            alternation._epoch_of(place, aim)
    assert float(module.weight.detach()) == pytest.approx(start, abs=1e-2)


def test_the_learning_rate_warms_up_and_decays_to_nothing() -> None:
    settings = AlternateSettings(epochs=10, batch_size=1, warmup=0.2)
    aim = Phase(name="x", items=2, loss=lambda _: torch.zeros(1))
    module = torch.nn.Linear(1, 1)
    factor = AlternatingLoop(module, [aim], settings, seed=0)._factor_of(aim)
    assert [factor(step) for step in (0, 1, 4)] == pytest.approx([1 / 5, 2 / 5, 1.0])
    assert factor(12) == pytest.approx(0.5)
    assert factor(20) == 0.0


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    module = torch.nn.Linear(1, 1)
    aim = Phase(name="forget", items=1, loss=lambda _: module.weight.sum()[None] * math.nan)
    with pytest.raises(TrainingError, match="forget loss is not a number in epoch 1"):
        AlternatingLoop(module, [aim], AlternateSettings(), seed=0).run(tmp_path)


def test_what_was_forgotten_before_may_not_be_taught_again(tmp_path: Path) -> None:
    run(recipe(SMALL), tmp_path / "first", corpus=replace(CORPUS, forget=FIRST))
    stage = UnlearnByLayers(past=(tmp_path / "first",))
    stage.check(replace(CORPUS, forget=SECOND))
    taught = replace(FIRST[0], id="again", completion=FIRST[0].completion.upper())
    with pytest.raises(DataError, match="'again' is one of them"):
        stage.check(Corpus(forget=SECOND, retain=(*RETAIN, taught)))
    with pytest.raises(DataError, match="no retain set"):
        stage.check(Corpus(forget=SECOND))
    with pytest.raises(ModelError, match="no requests in"):
        UnlearnByLayers(past=(tmp_path,)).check(CORPUS)
