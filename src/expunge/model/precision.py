"""The precision of weights and optimizer moments during training, and an AdamW that honours it.

Source: Dettmers et al. 2022 (arXiv 2110.02861) for 8 bits, Li et al. 2023 (arXiv 2309.01507) for 4.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from expunge.errors import MissingExtraError

OptimizerName = Literal["adamw", "adamw_8bit", "adamw_4bit"]

SMALLEST = 4096
"""Tensors with fewer numbers keep float32 moments: they cost nothing, and norms and biases need them."""

CONTAINERS: dict[OptimizerName, tuple[str, str, int]] = {
    "adamw_8bit": ("torchao.optim.subclass_8bit", "OptimState8bit", 256),
    "adamw_4bit": ("torchao.optim.subclass_4bit", "OptimState4bit", 128),
}
"""Module and class of each container, and how many numbers share a scale."""


def require_moments(name: OptimizerName) -> None:
    """Refuse an optimizer whose containers are not installed, without loading them.

    Raises:
        MissingExtraError: ``torchao`` is not there.
    """
    if name in CONTAINERS and importlib.util.find_spec("torchao") is None:
        raise MissingExtraError(f"optimizer {name!r}", extra="torchao")


@dataclass(frozen=True)
class Moments:
    """Makes the moments of one optimizer: all float32, or packed by ``zeros`` in blocks of ``block``."""

    zeros: Callable[..., Tensor] | None = None
    block: int = 1

    @classmethod
    def of(cls, name: OptimizerName) -> Moments:
        """The moments of an optimizer; loading their library here lets saved ones be read back."""
        require_moments(name)
        if name not in CONTAINERS:
            return cls()
        module, container, block = CONTAINERS[name]
        return cls(getattr(importlib.import_module(module), container).zeros, block)

    def new(self, weight: Tensor, *, signed: bool) -> Tensor:
        """A moment of zeros for ``weight``."""
        if self.zeros is None or weight.numel() < SMALLEST or weight.numel() % self.block:
            return torch.zeros_like(weight, dtype=torch.float32)
        return self.zeros(
            weight.shape, signed, block_size=self.block, device=weight.device, dtype=torch.float32
        )


def unpacked(moment: Tensor) -> Tensor:
    """The moment's numbers in float32: a copy, or the moment itself if it is float32 already."""
    return cast("Any", moment).dequantize() if _is_packed(moment) else moment


def repack(moment: Tensor, numbers: Tensor) -> None:
    """Keep the numbers in the moment they were unpacked from."""
    if _is_packed(moment):
        moment.copy_(numbers)


def least_square(moment: Tensor, mean: Tensor, beta1: float, beta2: float) -> Tensor | None:
    """What the second moment is at least, given the first; ``None`` where nothing was lost.

    8 bits round a small second moment to zero next to a large one. An embedding row that a batch does
    not use then divides its first moment by epsilon and flies off. But ``m² ≤ v (1 − β1)² /
    ((1 − β2) (1 − β1² / β2))`` for any gradients (Cauchy-Schwarz), so v is not below what m shows.
    """
    share = (1 - beta2) * (1 - beta1**2 / beta2) / (1 - beta1) ** 2 if beta2 else 0.0
    return mean.square() * share if _is_packed(moment) and share > 0 else None


def _is_packed(moment: Tensor) -> bool:
    return is_traceable_wrapper_subclass(moment)


# The precision weights are kept in while they train, and an AdamW that honours it.
#
# In bf16 a weight moves only if the step is at least half the distance to its neighbour: at learning
# rate 1e-5 no weight above 2^-8 moves, and what still moves is in the zero bucket of a
# 4-bit grid. Weights are therefore kept in fp32, or in bf16 with stochastic rounding, unless the
# literature's plain bf16 is asked for. Source: docs/why-it-comes-back.md.

WeightPrecision = Literal["fp32", "bf16", "bf16_stochastic"]

BF16_DROPPED_BITS = 16
SEEDS = 1 << 63
"""How many seeds a generator takes."""
BF16_STEP_EXPONENT = 9
"""A step ``u`` moves weights below ``2^(floor(log2 u) + 9)``: half a unit of 8 significant bits."""


def movable_below(step: float) -> float:
    """The magnitude from which on a bf16 weight no longer moves under steps of size ``step``."""
    return 2.0 ** (math.floor(math.log2(step)) + BF16_STEP_EXPONENT)


def prepare_weights(model: nn.Module, precision: WeightPrecision, *, device: torch.device) -> nn.Module:
    """Put the weights into the container they train in, on ``device``.

    ``fp32`` weights are float32. ``bf16`` and ``bf16_stochastic`` weights are bfloat16 where the
    device multiplies bfloat16 natively; elsewhere they lie on the bfloat16 grid inside float32
    tensors, so that values are the same and arithmetic does not crawl.
    """
    model.to(device)
    if precision == "fp32":
        return model.float()
    if has_native_bf16(device):
        return model.bfloat16()
    model.float()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.bfloat16())
    return model


def has_native_bf16(device: torch.device) -> bool:
    """Whether bfloat16 products run in hardware on ``device``."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported())
    return device.type != "mps"


def computes_in_bf16(precision: WeightPrecision, device: torch.device) -> bool:
    """Whether float32 weights are multiplied in bfloat16 while training: on a GPU that does so natively."""
    return precision == "fp32" and device.type == "cuda" and has_native_bf16(device)


def as_in_training(precision: WeightPrecision, device: torch.device) -> AbstractContextManager[None]:
    """Inside the block numbers are computed as the training loop computes them, so that they compare."""
    if computes_in_bf16(precision, device):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def as_it_is(value: Tensor, _: Generator) -> Tensor:
    """``value`` (float32), not rounded."""
    return value


def nearest(value: Tensor, _: Generator) -> Tensor:
    """``value`` (float32) on the bfloat16 grid, rounded to nearest even."""
    return value.bfloat16().float()


def stochastic(value: Tensor, generator: Generator) -> Tensor:
    """``value`` (float32) on the bfloat16 grid, up or down with the odds that keep its expectation."""
    bits = value.contiguous().view(torch.int32)
    noise = torch.randint(
        1 << BF16_DROPPED_BITS, bits.shape, dtype=torch.int32, device=bits.device, generator=generator
    )
    return ((bits + noise) & -(1 << BF16_DROPPED_BITS)).view(torch.float32)


ROUNDING: dict[WeightPrecision, Callable[[Tensor, Generator], Tensor]] = {
    "fp32": as_it_is,
    "bf16": nearest,
    "bf16_stochastic": stochastic,
}


class RoundedAdamW(Optimizer):
    """AdamW whose arithmetic is float32 and whose weights land on the bfloat16 grid (or stay float32).

    Moments are float32, or kept in 8 or 4 bits between steps (``moments``).
    The random bits of stochastic rounding depend on ``seed``, the step and the parameter alone, so
    a resumed run draws the same ones.
    Source: Loshchilov and Hutter 2019 (arXiv 1711.05101), Alg. 2.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        precision: WeightPrecision = "bf16",
        moments: OptimizerName = "adamw",
        seed: int = 0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._round = ROUNDING[precision]
        self._moments = Moments.of(moments)
        self._seed = seed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state; its moments stay float32, where the base class would narrow them."""
        super().load_state_dict(state_dict)
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for weight, index in zip(group["params"], saved["params"], strict=True):
                for name, value in state_dict["state"].get(index, {}).items():
                    if name != "step":
                        self.state[weight][name] = value.to(weight.device, torch.float32, copy=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        index = 0
        for group in self.param_groups:
            for weight in group["params"]:
                index += 1
                if weight.grad is not None:
                    self._update(weight, group, index)
        return loss

    def _update(self, weight: Tensor, group: dict[str, Any], index: int) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = self._moments.new(weight, signed=True)
            state["exp_avg_sq"] = self._moments.new(weight, signed=False)
        step = self._next_step(state)
        beta1, beta2 = group["betas"]
        grad = weight.grad.float()  # type: ignore[union-attr]
        mean = unpacked(state["exp_avg"]).lerp_(grad, 1 - beta1)
        square = unpacked(state["exp_avg_sq"]).mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        least = least_square(state["exp_avg_sq"], mean, beta1, beta2)
        if least is not None:
            torch.maximum(square, least, out=square)
        scale = square.sqrt().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
        value = weight.float() * (1 - group["lr"] * group["weight_decay"])
        value.addcdiv_(mean, scale, value=-group["lr"] / (1 - beta1**step))
        weight.copy_(self._round(value, self._generator(weight.device, step, index)))
        repack(state["exp_avg"], mean)
        repack(state["exp_avg_sq"], square)

    def _next_step(self, state: dict[str, Any]) -> int:
        state["step"] += 1
        return int(state["step"])

    def _generator(self, device: torch.device, step: int, index: int) -> Generator:
        generator = Generator(device)
        generator.manual_seed(((self._seed * 1_000_003 + step) * 1_000_003 + index) % SEEDS)
        return generator
