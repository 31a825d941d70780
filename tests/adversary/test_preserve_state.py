from __future__ import annotations

import pytest
import torch

from expunge.adversary.hooks import preserve_state
from tests.tiny import tiny


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(fails: bool) -> None:
    model = tiny("llama").train()
    model.model.layers[0].eval()  # a mixture, as nobody but a careful restorer keeps it
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    kept = model.lm_head.weight.grad
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)

    def meddle() -> None:
        with preserve_state(model):
            assert model.lm_head.weight.grad is None
            model.eval()
            torch.rand(100)
            sum(weight.sum() for weight in model.parameters()).backward()
            model.zero_grad()
            if fails:
                raise ZeroDivisionError

    if fails:
        with pytest.raises(ZeroDivisionError):
            meddle()
    else:
        meddle()
    assert torch.rand(4).equal(expected)
    assert [module.training for module in model.modules()] == modes
    assert model.lm_head.weight.grad is kept
    assert (kept == 1).all()
    assert all(w.grad is None for n, w in model.named_parameters() if n != "lm_head.weight")
