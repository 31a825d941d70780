"""What holds under every adversary: no trace, the scope, and without a budget the plain method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.adversary import Adversary, LossWeights, Perturb, Step
from expunge.adversary.latent import LatentAttack
from expunge.adversary.weights import FakeQuantized, SharpnessAware
from expunge.errors import MissingExtraError, RecipeError
from expunge.scope.selection import ScopeGuard, Selection
from expunge.train.methods.unlearn import Unlearn
from expunge.train.objective import reference as rounding_module
from expunge.train.run.recipe import load_recipe
from tests.tiny import tiny
from tests.train.hard import (
    HARD,
    RHO,
    SAM,
    Constant,
    trained_under,
    under,
)
from tests.train.runs import CORPUS, SCOPES, UNLEARN, unlearn
from tests.train.runs import run as run_recipe
from tests.train.runs import weights as bytes_of
from tests.train.trainers import (
    Gradients,
    assert_close,
    trained,
)

Q, DOWN = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"
NOTHING: dict[str, dict[str, Any]] = {
    "sam": {"name": "sam", "rho": 0},
    "fake_quant": {"name": "fake_quant", "weight": 0},
    "latent": {"name": "latent", "radius": 0},
    "latent, idle": {"name": "latent", "steps": 0, "random_start": False},
}


@pytest.mark.parametrize(
    "adversary", [SharpnessAware(rho=0), FakeQuantized(weight=0), LatentAttack(radius=0)]
)
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

    def shares(self, done: int, steps: int) -> LossWeights:
        return LossWeights(0.0, 1.0)

    def prepare(self, step: Step) -> Perturb:
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


@pytest.mark.parametrize("adversary", [SAM, Constant(weight=1.0), LatentAttack(radius=0.5, layer=1)])
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
        def prepare(self, step: Step) -> Perturb:
            perturb = super().prepare(step)
            with perturb(step.pieces[0]):
                seen.append(step.model.get_parameter(DOWN).detach().clone())
            return perturb

    before = model.get_parameter(DOWN).detach().clone()
    trained(tmp_path, **under(Watching(rho=RHO), model, rows={DOWN: rows}, guard=guard, epochs=1))
    moved = seen[0] - before
    assert moved[~rows].count_nonzero() == 0
    assert moved.norm().item() == pytest.approx(RHO, rel=1e-4)


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
        ("adversary={name: fake_quant, quantizer: gptq}", "needs calibration on text"),
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


def test_a_loss_that_reads_inside_the_model_feels_a_latent_attack(tmp_path: Path) -> None:
    # Its block is the first of two here, so the push has to stand before that.
    settings = {"forget": {"name": "rmu", "steering": 2.0}, "epochs": 1}
    latent = {"name": "latent", "radius": 2.0, "steps": 2}
    run_recipe(unlearn(**settings), tmp_path / "plain")
    run_recipe(unlearn(adversary=latent, **settings), tmp_path / "hard")
    assert bytes_of(tmp_path / "hard") != bytes_of(tmp_path / "plain")
    with pytest.raises(RecipeError, match="would never notice"):
        run_recipe(unlearn(adversary=latent | {"layer": 1}, **settings), tmp_path / "late")
