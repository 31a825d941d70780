"""Adversaries in training: the plain method where they do nothing, elsewhere what they are meant to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.adversary import Adversary, Perturb, Shares, Step
from expunge.adversary.fake_quant import FakeQuantized
from expunge.adversary.sam import SharpnessAware
from expunge.corpus.streams import Pair, collate_pairs
from expunge.errors import MissingExtraError, RecipeError
from expunge.forget.ga import GradientAscent
from expunge.forget.npo import NegativePreference
from expunge.model import precision
from expunge.quant.grid import Grid
from expunge.retain.gdr import GradientDescent
from expunge.scope.selection import ScopeGuard, Selection
from expunge.score.reference import LiveReference
from expunge.train import loop
from expunge.train import rounding as rounding_module
from expunge.train.adversarial import AdversarialObjective
from expunge.train.objective import PairObjective
from expunge.train.recipe import load_recipe
from expunge.train.rounding import rounding
from expunge.train.stages.unlearn import Unlearn
from tests.batches import full_logps, own
from tests.tiny import PAD, tiny
from tests.train.runs import CORPUS, SCOPES, UNLEARN, unlearn
from tests.train.runs import run as run_recipe
from tests.train.runs import weights as bytes_of
from tests.train.trainers import (
    FORGET,
    OBJECTIVE,
    RETAIN,
    WEIGHT,
    Gradients,
    assert_close,
    pairs_of_step,
    trained,
    trainer,
)

Q, DOWN = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"
RHO = 0.5
SAM = SharpnessAware(rho=RHO)
FAKE = FakeQuantized(quantizer="int4", weight=1.5, warmup=0.0)
HARD: dict[str, dict[str, Any]] = {
    "sam": {"name": "sam", "rho": 0.05},
    "fake_quant": {"name": "fake_quant", "quantizer": "int4", "weight": 1.0, "warmup": 0.3},
}
NOTHING: dict[str, dict[str, Any]] = {
    "sam": {"name": "sam", "rho": 0},
    "fake_quant": {"name": "fake_quant", "weight": 0},
}


def under(adversary: Adversary, model: nn.Module, **settings: Any) -> dict[str, Any]:
    """What a trainer is given for ``OBJECTIVE`` under an adversary."""
    objective = AdversarialObjective(
        plain=settings.pop("plain", OBJECTIVE),
        adversary=adversary,
        rows=settings.pop("rows", {name: None for name, _ in model.named_parameters()}),
        roundings={name: rounding(name) for name in adversary.formats},
    )
    return {"model": model, "objective": objective, "begin": objective.begin, **settings}


def trained_under(folder: Path, adversary: Adversary, **settings: Any) -> dict[str, Tensor]:
    return trained(folder, **under(adversary, settings.pop("model", tiny("llama")), **settings))


def forget_slope(model: nn.Module, pairs: list[tuple[int, int]]) -> dict[str, Tensor]:
    """∇ of the mean forget loss of some pairs, by full logits, one sequence at a time."""
    losses = [own(full_logps(model, FORGET[f]), FORGET[f]).mean() for f, _ in pairs]
    return slope(model, torch.stack(losses).mean())


def retain_slope(model: nn.Module, pairs: list[tuple[int, int]]) -> dict[str, Tensor]:
    losses = [-own(full_logps(model, RETAIN[r]), RETAIN[r]).mean() for _, r in pairs]
    return slope(model, WEIGHT * torch.stack(losses).mean())


def slope(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}


def plus(*terms: tuple[float, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([c * term[name] for c, term in terms]).sum(0) for name in terms[0][1]}


def first_step(folder: Path, adversary: Adversary, **settings: Any) -> dict[str, Tensor]:
    seen = Gradients()
    trained_under(folder, adversary, callbacks=[seen], epochs=1, **settings)
    return seen.steps[0]


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


class Constant(FakeQuantized):
    """Fake quantization from the first step on."""

    def shares(self, done: int, steps: int) -> Shares:
        return Shares(1.0, self.weight)


def test_alpha_follows_the_steps_of_the_run(tmp_path: Path) -> None:
    asked: list[tuple[int, int]] = []

    class Asked(FakeQuantized):
        def shares(self, done: int, steps: int) -> Shares:
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


@pytest.mark.parametrize("adversary", [SharpnessAware(rho=0), FakeQuantized(weight=0)])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_without_a_budget_it_is_the_plain_method_byte_for_byte(
    adversary: Adversary, accumulation: int, tmp_path: Path
) -> None:
    base = trained(tmp_path / "1", accumulation=accumulation, weight_decay=0.1)
    hard = trained_under(tmp_path / "2", adversary, accumulation=accumulation, weight_decay=0.1)
    assert all(weight.equal(base[name]) for name, weight in hard.items())


@pytest.mark.parametrize("scope", SCOPES)
def test_without_a_budget_a_recipe_gives_the_same_bytes_in_every_scope(scope: str, tmp_path: Path) -> None:
    settings = {"scope": SCOPES[scope], "epochs": 1}
    run_recipe(unlearn(**settings), tmp_path / "plain")
    for name, nothing in NOTHING.items():
        run_recipe(unlearn(adversary=nothing, **settings), tmp_path / name)
        assert bytes_of(tmp_path / name) == bytes_of(tmp_path / "plain")


class Meddler(Adversary):
    """Changes nothing that counts, and everything it should not."""

    def shares(self, done: int, steps: int) -> Shares:
        return Shares(0.0, 1.0)

    def against(self, step: Step) -> Perturb:
        self._meddle(step)

        def perturb(piece: Any) -> Any:
            self._meddle(step)
            return torch.enable_grad()

        return perturb

    def _meddle(self, step: Step) -> None:
        step.model.eval()
        torch.rand(7)
        step.pieces[0].loss().backward()
        step.model.zero_grad()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_gradients_random_numbers_and_mode_are_left_alone(accumulation: int, tmp_path: Path) -> None:
    # With dropout, one number drawn too many would show; so would eval mode, or a gradient that was lost.
    def dropping() -> nn.Module:
        return tiny("llama", attention_dropout=0.2)

    settings: dict[str, Any] = {"epochs": 1, "accumulation": accumulation}
    plain, hard = Gradients(), Gradients()
    trained(tmp_path / "1", model=dropping(), callbacks=[plain], **settings)
    trained_under(tmp_path / "2", Meddler(), model=dropping(), callbacks=[hard], **settings)
    for ours, theirs in zip(hard.steps, plain.steps, strict=True):
        assert_close(ours, theirs, atol=1e-6)
    still = Gradients()
    trained(tmp_path / "3", callbacks=[still], **settings)
    assert (still.steps[0][Q] - plain.steps[0][Q]).abs().max() > 1e-4


@pytest.mark.parametrize("adversary", [SAM, Constant(weight=1.0)])
def test_bytes_outside_the_scope_stay_and_what_is_inside_gets_its_slope(
    adversary: Adversary, tmp_path: Path
) -> None:
    model = tiny("llama")
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    rows = torch.arange(32) % 3 == 0
    selection = Selection({Q: rows, DOWN: None})
    guard = ScopeGuard(model, selection)
    settings = under(adversary, model, rows=selection.rows, guard=guard, weight_decay=0.2, epochs=3)
    after = trained(tmp_path, **settings)
    guard.verify()
    changed = {n: (w != before[n]).reshape(len(w), -1).any(-1) for n, w in after.items()}
    assert changed.pop(Q).equal(rows)
    assert changed.pop(DOWN).all()
    assert not any(found.any() for found in changed.values())


def test_sam_moves_only_what_the_scope_lets_it(tmp_path: Path) -> None:
    model = tiny("llama")
    rows = torch.arange(32) == 4
    guard = ScopeGuard(model, Selection({DOWN: rows}))
    seen: list[Tensor] = []

    class Watching(SharpnessAware):
        def against(self, step: Step) -> Perturb:
            perturb = super().against(step)
            with perturb(step.pieces[0]):
                seen.append(step.model.get_parameter(DOWN).detach().clone())
            return perturb

    before = model.get_parameter(DOWN).detach().clone()
    trained(tmp_path, **under(Watching(rho=RHO), model, rows={DOWN: rows}, guard=guard, epochs=1))
    moved = seen[0] - before
    assert moved[~rows].count_nonzero() == 0
    assert moved.norm().item() == pytest.approx(RHO, rel=1e-4)


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
    plain = PairObjective(NegativePreference(), GradientDescent(), LiveReference.copied(model))
    batch = collated(0, 2)
    hard = under(Constant(weight=1.0), model, plain=plain)["objective"]
    hard.begin(model, [batch], 0, 1)
    terms = hard(model, batch)
    even = 2 * (2 / 0.1) * torch.log(torch.tensor(2.0))
    torch.testing.assert_close(terms["forget"], even)
    assert (terms["forget_perturbed"] - even).abs() > 1e-2


def collated(*places: int) -> Any:
    pairs = [Pair(FORGET[place], RETAIN[0], place, 0) for place in places]
    return collate_pairs(pairs, pad_id=PAD)


def test_in_bfloat16_arithmetic_the_disturbed_weights_are_the_ones_computed_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a GPU: float32 weights, multiplied in bfloat16, whose copies autocast would remember.
    for module in (precision, loop):
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


def twice() -> PairObjective:
    """What an adversary that disturbs nothing would give: the forget loss once more."""

    class Twice(GradientAscent):
        def __call__(self, view: Any) -> Tensor:
            return 2 * super().__call__(view)

    return PairObjective(Twice(), GradientDescent(weight=WEIGHT), None)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return torch.stack([(one[name] - other[name]).norm() for name in one]).norm().item()


@pytest.mark.parametrize("hard", HARD)
@pytest.mark.parametrize("scope", SCOPES)
def test_every_adversary_goes_with_every_scope(hard: str, scope: str, tmp_path: Path) -> None:
    # The stage itself checks that nothing outside the scope changed.
    settings = {"scope": SCOPES[scope], "adversary": HARD[hard], "epochs": 1, "batch_size": 3}
    run_recipe(unlearn(**settings), tmp_path / "hard")
    run_recipe(unlearn(**(settings | {"adversary": None})), tmp_path / "plain")
    assert bytes_of(tmp_path / "hard") != bytes_of(tmp_path / "plain")


@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"precision": "bf16_stochastic"}])
def test_a_disturbance_finer_than_the_weights_is_refused(settings: dict[str, Any]) -> None:
    values = {key: value for key, value in UNLEARN.items() if key != "name"} | settings
    with pytest.raises(ValueError, match=r"'sam' moves weights by less than bf16\w* weights can hold"):
        Unlearn(**values, adversary=HARD["sam"])
    assert Unlearn(**values, adversary=HARD["fake_quant"]).precision == settings["precision"]


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("adversary=fake_qant", r"adversary 'fake_qant': .*Did you mean 'fake_quant'"),
        ("adversary={name: sam, rho: -1}", "rho: input should be greater than or equal to 0"),
        ("adversary={name: sam, radius: 1}", r"radius: .*Known: rho"),
        ("adversary={name: fake_quant, quantizer: int44}", "int44|bits"),
        ("adversary={name: fake_quant, quantizer: bf16}", "full precision is not a quantizer"),
        ("adversary={name: fake_quant, quantizer: gptq}", "calibrated on text"),
        ("adversary={name: fake_quant, warmup: 1}", "warmup: input should be less than 1"),
    ],
)
def test_an_adversary_that_makes_no_sense_is_refused(override: str, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        load_recipe("npo_gdr", [override])


def test_a_format_whose_library_is_not_there_is_refused_before_loading(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def absent(_: str) -> Any:
        raise MissingExtraError("quantizer 'nf4'", extra="bnb")

    monkeypatch.setattr(rounding_module, "uncalibrated", absent)
    chosen = unlearn(adversary=HARD["fake_quant"])
    with pytest.raises(MissingExtraError, match="bnb"):
        chosen.stages[0].check(CORPUS)
