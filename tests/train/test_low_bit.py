"""Moments of 8 and 4 bits in training: the scope holds, a killed run goes on, weights keep their grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.errors import MissingExtraError
from expunge.model import precision
from expunge.scope.selection import ScopeGuard, Selection
from expunge.train.run.recipe import load_recipe
from tests.tiny import tiny
from tests.train.hard import HARD
from tests.train.runs import SCOPES, run, unlearn, weights
from tests.train.test_resume import STEPS_PER_EPOCH, die_at_step, die_in
from tests.train.trainers import trained, trainer

pytest.importorskip("torchao")

NAMES = ("adamw_8bit", "adamw_4bit")
Q, DOWN = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(autouse=True)
def packs_tiny_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensors of a tiny model are packed too."""
    monkeypatch.setattr(precision, "SMALLEST", 256)


@pytest.mark.parametrize("precision", ["fp32", "bf16_stochastic"])
@pytest.mark.parametrize("name", NAMES)
def test_bytes_outside_the_scope_stay(name: str, precision: str, tmp_path: Path) -> None:
    # A scale is shared by numbers of several rows; what is frozen must not even be rounded.
    model = tiny("llama")
    if precision != "fp32":
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(weight.bfloat16())
    before = {each: weight.detach().clone() for each, weight in model.named_parameters()}
    rows = torch.arange(32) % 3 == 0
    guard = ScopeGuard(model, Selection({Q: rows, DOWN: None}))
    settings: dict[str, Any] = {"optimizer": name, "precision": precision, "weight_decay": 0.2}
    made = trainer(tmp_path, model=model, guard=guard, epochs=3, **settings)
    made.train()
    guard.verify()
    kinds = {type(state["exp_avg"]).__name__ for state in made.optimizer.optimizer.state.values()}
    assert kinds == {"OptimState8bit" if name == "adamw_8bit" else "OptimState4bit"}
    after = {each: weight.detach() for each, weight in model.named_parameters()}
    changed = {each: (w != before[each]).reshape(len(w), -1).any(-1) for each, w in after.items()}
    assert changed.pop(Q).equal(rows)
    assert changed.pop(DOWN).all()
    assert not any(found.any() for found in changed.values())
    if precision != "fp32":
        assert all(weight.equal(weight.bfloat16().float()) for weight in after.values())


CASES: dict[str, dict[str, Any]] = {
    "8 bits, rows": {
        "optimizer": "adamw_8bit", "precision": "bf16_stochastic", "scope": SCOPES["row"],
        "weight_decay": 0.1,
    },
    "4 bits, adapters with dropout": {
        "optimizer": "adamw_4bit", "scope": {**SCOPES["lora"], "rank": 16},
    },
    "sam, dropout": {"adversary": HARD["sam"], "scope": SCOPES["lora"]},
    "fake_quant, rows, 8 bits": {
        "adversary": HARD["fake_quant"], "optimizer": "adamw_8bit", "scope": SCOPES["row"],
        "precision": "bf16_stochastic",
    },
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_ends_with_the_same_bytes(case: str, tmp_path: Path) -> None:
    chosen = unlearn(**{"epochs": 2, **CASES[case]})
    record = run(chosen, tmp_path / "whole")
    die_in(tmp_path / "out", chosen, lambda patch: die_at_step(STEPS_PER_EPOCH + 2, patch))
    torch.manual_seed(99)
    again = run(chosen, tmp_path / "out")
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
    assert again["stages"] == record["stages"]


def test_they_train_about_as_whole_moments_do(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"learning_rate": 1e-3, "epochs": 4}
    before = {name: weight.detach() for name, weight in tiny("llama").named_parameters()}
    exact = trained(tmp_path / "whole", **settings)
    found = trained(tmp_path / "packed", optimizer="adamw_8bit", **settings)
    off = torch.stack([(found[name] - exact[name]).norm() for name in exact]).norm()
    way = torch.stack([(exact[name] - before[name]).norm() for name in exact]).norm()
    assert 0 < off < 0.2 * way


def test_a_missing_library_is_refused_with_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision.importlib.util, "find_spec", lambda _: None)
    assert load_recipe("npo_gdr").name == "npo_gdr"
    with pytest.raises(MissingExtraError, match=r"optimizer 'adamw_8bit'.*expunge\[torchao\]"):
        load_recipe("npo_gdr", ["optimizer=adamw_8bit"])
