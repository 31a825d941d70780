from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.errors import RecipeError
from tests.train.hard import HARD
from tests.train.runs import SCOPES
from tests.train.test_unlearn import ran, weights

CASES: Mapping[str, dict[str, Any]] = {
    "npo_klr": {},
    "rows": {"scope": SCOPES["row"]},
    "lora": {"scope": SCOPES["lora"]},  # with dropout
    "accumulated": {"accumulation": 2},
    "states inside": {"forget": "rmu", "retain": {"name": "states", "weight": 1.0}},
    **{name: {"adversary": adversary} for name, adversary in HARD.items()},
}


def history(state: Any) -> list[dict[str, float]]:
    names = ("loss", "loss_forget", "loss_forget_perturbed", "loss_retain", "grad_norm")
    return [{name: entry[name] for name in names if name in entry} for entry in state.facts[0]["history"]]


@pytest.mark.parametrize("case", CASES)
def test_losses_and_weights_are_those_of_the_run_without(case: str, tmp_path: Path) -> None:
    usual = ran(tmp_path / "usual", **CASES[case])
    again = ran(tmp_path / "again", gradient_checkpointing=True, **CASES[case])
    assert len(history(usual)) == len(history(again)) == 2
    for one, two in zip(history(again), history(usual), strict=True):
        assert one == pytest.approx(two, rel=1e-6, abs=1e-7)
    for name, weight in weights(again).items():
        torch.testing.assert_close(weight, weights(usual)[name], rtol=0, atol=1e-6)


def test_blocks_are_computed_again_while_training_and_not_afterwards(tmp_path: Path) -> None:
    calls = {}
    for checkpointing in (False, True):
        from expunge.train.methods import unlearn as module

        count = [0]
        original = module.ObjectiveTrainer.train_from

        def counting(
            self: Any, checkpoint: Any, count: list[int] = count, original: Any = original
        ) -> None:
            mlp = self.model.model.layers[0].mlp
            handle = mlp.register_forward_pre_hook(lambda *_: count.__setitem__(0, count[0] + 1))
            original(self, checkpoint)
            handle.remove()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module.ObjectiveTrainer, "train_from", counting)
            state = ran(tmp_path / str(checkpointing), epochs=1, gradient_checkpointing=checkpointing)
        calls[checkpointing] = count[0]
        assert not state.model.is_gradient_checkpointing
    assert calls[True] == 2 * calls[False] > 0


def test_a_model_whose_blocks_cannot_be_computed_again_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    monkeypatch.setattr(LlamaForCausalLM, "supports_gradient_checkpointing", False)
    with pytest.raises(RecipeError, match=r"gradient_checkpointing: .*LlamaForCausalLM.*accumulation"):
        ran(tmp_path, gradient_checkpointing=True)
