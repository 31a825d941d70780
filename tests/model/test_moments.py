from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.errors import MissingExtraError
from expunge.model import precision
from expunge.model.precision import Moments, OptimizerName, RoundedAdamW, require_moments

pytest.importorskip("torchao")

PACKED: dict[OptimizerName, str] = {"adamw_8bit": "OptimState8bit", "adamw_4bit": "OptimState4bit"}
SETTINGS: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.1}


def weight_of(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(1)))


def slope(weight: Tensor, step: int) -> Tensor:
    return torch.randn(weight.shape, generator=torch.Generator().manual_seed(10 + step))


def take_steps(
    weight: nn.Parameter, name: OptimizerName, count: int, **settings: Any
) -> tuple[RoundedAdamW, Tensor]:
    optimizer = RoundedAdamW([weight], **{"precision": "fp32", **SETTINGS, **settings}, moments=name)
    for step in range(count):
        weight.grad = slope(weight, step)
        optimizer.step()
    return optimizer, weight.detach()


@pytest.mark.parametrize("name", PACKED)
def test_but_for_the_floor_the_steps_are_those_of_torchao(
    name: OptimizerName, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchao.optim.adam import single_param_adam

    monkeypatch.setattr(precision, "least_square", lambda *_: None)
    optimizer, found = take_steps(weight := weight_of(64, 128), name, 6)
    theirs = weight_of(64, 128).detach()
    first, second = (Moments.of(name).new(theirs, signed=signed) for signed in (True, False))
    rate, count = torch.tensor(SETTINGS["lr"]), torch.tensor(0.0)
    for step in range(6):
        count += 1
        grad = slope(theirs, step)
        single_param_adam(theirs, grad, count, first, second, None, rate, 0.9, 0.99, 0.1, 1e-8, True, False)
    torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-6)
    ours = optimizer.state[weight]
    for mine, other in ((ours["exp_avg"], first), (ours["exp_avg_sq"], second)):
        assert type(mine).__name__ == PACKED[name]
        assert (mine.codes != other.codes).float().mean() < 1e-3  # the last bit of a sum may tip a code
        torch.testing.assert_close(mine.scale, other.scale)


@pytest.mark.parametrize("name", PACKED)
def test_a_row_that_is_seldom_used_does_not_fly_off(name: OptimizerName) -> None:
    # Beside a row with large gradients, its second moment rounds to zero in 8 bits: m / epsilon.
    weight = nn.Parameter(torch.zeros(64, 128))
    optimizer = RoundedAdamW([weight], lr=1e-3, precision="fp32", moments=name)
    for step in range(40):
        weight.grad = torch.zeros_like(weight)
        weight.grad[0] = 1.0
        weight.grad[1] = 1e-4 * (step % 10 == 0)
        optimizer.step()
    # No step of Adam is longer than (1 - β1) / √((1 - β2) (1 - β1² / β2)) = 7.27 learning rates.
    assert weight.detach().abs().max() < 40 * 7.3e-3
    assert weight.detach()[1].abs().max() < 40 * 7.3e-3 / 2


@pytest.mark.parametrize("name", PACKED)
def test_steps_are_near_those_with_whole_moments_and_not_the_same(name: OptimizerName) -> None:
    exact = take_steps(weight_of(64, 128), "adamw", 10)[1]
    found = take_steps(weight_of(64, 128), name, 10)[1]
    before = weight_of(64, 128).detach()
    off = (found - exact).norm() / (exact - before).norm()
    assert 0 < off < {"adamw_8bit": 0.05, "adamw_4bit": 0.5}[name]


def test_whole_moments_in_float32_are_plain_adamw() -> None:
    _, found = take_steps(weight_of(8, 16), "adamw", 5)
    weight = weight_of(8, 16)
    plain = torch.optim.AdamW([weight], **SETTINGS)
    for step in range(5):
        weight.grad = slope(weight, step)
        plain.step()
    torch.testing.assert_close(found, weight.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("name", "bits"), [("adamw_8bit", 8), ("adamw_4bit", 4)])
def test_they_take_the_memory_they_promise(name: OptimizerName, bits: int) -> None:
    moment: Any = Moments.of(name).new(torch.zeros(64, 128), signed=True)
    stored = moment.codes.nbytes + moment.scale.nbytes
    assert stored <= 64 * 128 * bits / 8 * 1.07


@pytest.mark.parametrize("shape", [(4095,), (4097,), (63, 65), (32, 32)])
def test_small_and_uneven_tensors_keep_float32(shape: tuple[int, ...]) -> None:
    for name in PACKED:
        moment = Moments.of(name).new(torch.zeros(shape, dtype=torch.bfloat16), signed=True)
        assert type(moment) is Tensor
        assert moment.dtype == torch.float32


@pytest.mark.parametrize("kind", ["bf16", "bf16_stochastic"])
def test_weights_land_on_the_bfloat16_grid(kind: str) -> None:
    _, found = take_steps(weight_of(64, 128), "adamw_8bit", 3, precision=kind)
    assert found.equal(found.bfloat16().float())
    assert not found.equal(weight_of(64, 128).bfloat16().float())


def test_their_library_is_loaded_before_saved_ones_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    # A checkpoint is read with weights_only, which takes no class that has not been imported.
    seen: list[str] = []
    real = importlib.import_module

    def load(name: str) -> Any:
        seen.append(name)
        return real(name)

    monkeypatch.setattr(precision.importlib, "import_module", load)
    RoundedAdamW([weight_of(2, 2)], lr=1e-3, moments="adamw_8bit")
    assert seen == ["torchao.optim.subclass_8bit"]


@pytest.mark.parametrize("name", PACKED)
def test_a_missing_library_is_named(name: OptimizerName, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision.importlib.util, "find_spec", lambda _: None)
    require_moments("adamw")
    with pytest.raises(MissingExtraError, match=r"expunge\[torchao\]"):
        require_moments(name)
