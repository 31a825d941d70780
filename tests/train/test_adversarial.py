"""What training under an adversary steps with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.adversary import LossWeights
from expunge.adversary.latent import LatentAttack
from expunge.adversary.weights import FakeQuantized
from expunge.corpus.batching import ForgetRetainPair, collate_pairs
from expunge.forget.ascent import GA
from expunge.forget.preference import NPO
from expunge.inference.reference import LiveReference
from expunge.model import precision
from expunge.quant.grid import Grid
from expunge.retain.losses import GDR
from expunge.train.loop import settings
from expunge.train.objective.pair import PairObjective
from tests.tiny import PAD, tiny
from tests.train.hard import (
    RHO,
    SAM,
    Constant,
    distance,
    first_step,
    forget_slope,
    plus,
    retain_slope,
    under,
)
from tests.train.runs import run as run_recipe
from tests.train.runs import unlearn
from tests.train.trainers import (
    FORGET,
    RETAIN,
    WEIGHT,
    assert_close,
    pairs_of_step,
    trainer,
)


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_sam_steps_with_the_slope_at_the_worst_point_of_the_whole_step(
    accumulation: int, tmp_path: Path
) -> None:
    model, pairs = tiny("llama"), pairs_of_step(0)
    retain, ascent = retain_slope(model, pairs), forget_slope(model, pairs)
    length = torch.stack([grad.norm() for grad in ascent.values()]).norm()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.add_(RHO * ascent[name] / length)
    expected = plus((1.0, forget_slope(model, pairs)), (1.0, retain))
    found = first_step(tmp_path, SAM, accumulation=accumulation)
    assert_close(found, expected, atol=2e-5)
    plain = plus((1.0, ascent), (1.0, retain))
    assert max((found[name] - plain[name]).abs().max() for name in found) > 1e-3


@pytest.mark.parametrize("accumulation", [1, 4])
def test_fake_quantization_adds_the_slope_at_the_rounded_weights(accumulation: int, tmp_path: Path) -> None:
    model, pairs = tiny("llama"), pairs_of_step(0)
    here, retain = forget_slope(model, pairs), retain_slope(model, pairs)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "_proj" in name:
                weight.copy_(Grid(bits=4).round(weight).dequantized)
    # At the first step of the run α is still 0: the second of two has min(1.5, 2 · 1.5 · ½).
    expected = plus((1.0, here), (1.5, forget_slope(model, pairs)), (1.0, retain))
    found = first_step(tmp_path, Constant(weight=1.5), accumulation=accumulation)
    assert_close(found, expected, atol=2e-5)


def test_alpha_follows_the_steps_of_the_run(tmp_path: Path) -> None:
    asked: list[tuple[int, int]] = []

    class Asked(FakeQuantized):
        def shares(self, done: int, steps: int) -> LossWeights:
            asked.append((done, steps))
            return super().shares(done, steps)

    hard = under(Asked(weight=2.0, warmup=0.5), tiny("llama"), epochs=3, accumulation=2)
    made = trainer(tmp_path, **hard)
    made.train()
    assert asked == [(done, 6) for done in range(6)]
    first, second, third = [entry for entry in made.state.log_history if "loss" in entry]
    assert "loss_forget_perturbed" not in first
    assert {"loss_forget", "loss_forget_perturbed", "loss_retain"} <= third.keys()
    assert second["loss_forget"] != 0


def test_the_reference_is_the_undisturbed_model(tmp_path: Path) -> None:
    # Adapters off under fake quantization would be the rounded base, and not what the model was.
    settings: dict[str, Any] = {
        "scope": {"name": "lora", "rank": 2},
        "adversary": {"name": "fake_quant", "quantizer": "int3", "warmup": 0.0},
        "retain": None,
        "epochs": 3,
    }
    found = {}
    for kind in ("adapter_off", "cache", "copy"):
        record = run_recipe(unlearn(reference=kind, **settings), tmp_path / kind)
        found[kind] = [entry["loss"] for entry in record["stages"][0]["history"]]
    assert found["adapter_off"] == pytest.approx(found["cache"], rel=1e-4)
    assert found["copy"] == pytest.approx(found["cache"], rel=1e-4)


def test_a_rounded_model_is_compared_with_the_reference_before_rounding() -> None:
    model = tiny("llama")
    plain = PairObjective(NPO(), GDR(), LiveReference.copied(model))
    batch = collated(0, 2)
    hard = under(Constant(weight=1.0), model, plain=plain)["objective"]
    hard.begin(model, [batch], 0, 1)
    terms = hard(model, batch)
    even = 2 * (2 / 0.1) * torch.log(torch.tensor(2.0))
    torch.testing.assert_close(terms["forget"], even)
    assert (terms["forget_perturbed"] - even).abs() > 1e-2


LATENT = LatentAttack(layer=1, radius=0.5, steps=3)


def collated(*places: int) -> Any:
    pairs = [ForgetRetainPair(FORGET[place], RETAIN[0], place, 0) for place in places]
    return collate_pairs(pairs, pad_id=PAD)


def test_in_bfloat16_arithmetic_the_disturbed_weights_are_the_ones_computed_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a GPU: float32 weights, multiplied in bfloat16, whose copies autocast would remember.
    for module in (precision, settings):
        monkeypatch.setattr(module, "computes_in_bf16", lambda *_: True)
    used: list[torch.dtype] = []
    model = tiny("llama")
    model.model.layers[0].mlp.up_proj.register_forward_hook(lambda *io: used.append(io[2].dtype))
    rough = first_step(tmp_path / "1", Constant(weight=1.0), model=model)
    assert set(used) == {torch.bfloat16}
    monkeypatch.undo()
    exact = first_step(tmp_path / "2", Constant(weight=1.0))
    plain = first_step(tmp_path / "3", Constant(weight=0.0), plain=twice())
    assert distance(rough, exact) < 0.3 * distance(plain, exact)


def test_in_bfloat16_arithmetic_a_latent_attack_is_nearly_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = first_step(tmp_path / "1", LATENT)
    for module in (precision, settings):
        monkeypatch.setattr(module, "computes_in_bf16", lambda *_: True)
    rough = first_step(tmp_path / "2", LATENT)
    monkeypatch.undo()
    plain = first_step(tmp_path / "3", Constant(weight=0.0))
    assert 0 < distance(rough, exact) < 0.5 * distance(plain, exact)


def twice() -> PairObjective:
    """What an adversary that disturbs nothing would give: the forget loss once more."""

    class Twice(GA):
        def __call__(self, view: Any) -> Tensor:
            return 2 * super().__call__(view)

    return PairObjective(Twice(), GDR(weight=WEIGHT), None)


@pytest.mark.parametrize("accumulation", [2, 4])
def test_an_attack_on_hidden_states_fits(accumulation: int, tmp_path: Path) -> None:
    # One sequence is attacked on its own, so how a step is cut into pieces makes no difference.
    whole = first_step(tmp_path / "1", LATENT)
    assert_close(first_step(tmp_path / "2", LATENT, accumulation=accumulation), whole, atol=2e-5)
    plain = first_step(tmp_path / "3", Constant(weight=0.0))
    assert distance(whole, plain) > 0.01 * distance(whole, plus((0.0, plain)))
