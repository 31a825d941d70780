"""What adversaries share: random starts, gradients, swapped weights, and a guard that leaves no trace.

However a step is cut into pieces, and wherever a run was taken up again, a sequence gets the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Generator, Tensor, nn

from expunge.corpus.batching import Batch
from expunge.errors import ModelError
from expunge.inference.backbone import parts
from expunge.model.arch import backbone
from expunge.model.intervention import Site, intervening


class MicroBatch(NamedTuple):
    """Rows of a batch that are read at once, and how many of their positions."""

    rows: list[int]
    width: int

    def of(self, values_BT: Tensor) -> Tensor:
        """The part's own of a tensor over the batch, [b, t, ...]."""
        return values_BT[self.rows, : self.width]


Visit = Callable[[MicroBatch, Tensor], Tensor]
"""From a part and its hidden states [b, t, H] to those the model continues with."""


@contextmanager
def hooked_block(model: nn.Module, layer: int, batch: Batch, visit: Visit) -> Iterator[None]:
    """Inside the block ``visit`` changes what block ``layer`` reads of ``batch``, and of nothing else."""
    state = _HookState(batch, visit)
    handle = backbone(model).register_forward_pre_hook(state.before, with_kwargs=True)
    try:
        with intervening(model, {Site("residual_in", layer): state.passing}):
            yield
    finally:
        handle.remove()


class _HookState:
    """Knows which part is being read."""

    def __init__(self, batch: Batch, visit: Visit) -> None:
        self._visit = visit
        lengths = batch.attention_mask_BT.sum(-1).tolist()
        cut = [MicroBatch(rows, max(lengths[row] for row in rows)) for rows in parts(lengths)]
        self._known = [(part, part.of(batch.input_ids_BT)) for part in cut]
        self._now: MicroBatch | None = None
        self._begun = False
        self._seen: dict[int, MicroBatch | None] = {}

    def before(self, _: nn.Module, __: Any, kwargs: dict[str, Any]) -> None:
        """A forward pass begins."""
        ids_bt = kwargs.get("input_ids")
        self._begun = True
        self._now = next((part for part, ids in self._known if _same(ids, ids_bt)), None)

    def passing(self, hidden_btH: Tensor) -> Tensor:
        """The hidden states are at the layer, for the first time or again."""
        if self._begun:
            self._begun = False
            self._seen[hidden_btH.data_ptr()] = self._now
        part = self._seen.get(hidden_btH.data_ptr())
        return hidden_btH if part is None else self._visit(part, hidden_btH)


def _same(one: Tensor, other: Any) -> bool:
    return isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)


def random_init(batch: Batch, like_BTH: Tensor, done: int) -> Tensor:
    """For each sequence a random direction of a random length up to 1, zero on padding. Shape [B, T, H]."""
    push_BTH = torch.zeros_like(like_BTH)
    for row, length in enumerate(batch.attention_mask_BT.sum(-1).tolist()):
        generator = _generator(batch.input_ids_BT[row, :length], done)
        drawn_tH = torch.randn(length, like_BTH.shape[-1], generator=generator)
        share = torch.rand((), generator=generator)
        push_BTH[row, :length] = (share * drawn_tH / drawn_tH.norm()).to(like_BTH)
    return push_BTH


def _generator(ids_t: Tensor, done: int) -> Generator:
    text = f"{torch.initial_seed()} {done} {ids_t.tolist()}"
    generator = Generator()
    return generator.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))


# Gradients of a loss by weights (or pushes), without touching the gradients they hold.

By = TypeVar("By", bound=Tensor)


def gradients(loss: Tensor, weights: Sequence[By]) -> dict[By, Tensor]:
    """The gradient of ``loss`` by every one of ``weights`` it depends on."""
    # Backward passes belong outside autocast; what ran in bfloat16 goes back in bfloat16 all the same.
    with torch.autocast(loss.device.type, enabled=False):
        grads: tuple[Tensor | None, ...] = torch.autograd.grad(loss, weights, allow_unused=True)
    return {weight: slope for weight, slope in zip(weights, grads, strict=True) if slope is not None}


# What an adversary does leaves no trace in gradients, random numbers or training mode.


@contextmanager
def preserve_state(model: nn.Module) -> Iterator[None]:
    """Gradients, training mode of every module and random state are after the block what they were before.

    Gradients are set aside inside it (a ``backward`` there starts from none), not copied. Random
    state: that of the CPU and of the CUDA device the model is on.
    """
    gradients = [(weight, weight.grad) for weight in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    try:
        for weight, _ in gradients:
            weight.grad = None
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for weight, gradient in gradients:
            weight.grad = gradient
        for module, mode in modes:
            module.training = mode


# Other numbers in a model's parameters for a while; their own storage comes back, so every bit of it.


@contextmanager
def swapped(values: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """Each parameter holds its value inside the block; nothing is ever written into its own storage.

    A backward pass inside the block gives the gradient at the values. Shared parameters are one.

    Raises:
        ModelError: a parameter does not hold plain floats, so its numbers are not its values.
    """
    for parameter in values:
        if not parameter.is_floating_point():
            raise ModelError(
                f"a weight of {str(parameter.dtype).removeprefix('torch.')}",
                why="the model is quantized already, and packed integers are never disturbed.",
                fix="Load the checkpoint it was quantized from.",
            )
    originals = {parameter: parameter.data for parameter in values}
    try:
        for parameter, value in values.items():
            parameter.data = value.to(parameter.dtype)
        _forget_casts()
        yield
    finally:
        for parameter, original in originals.items():
            parameter.data = original
        _forget_casts()


def _forget_casts() -> None:
    """Drop the copies autocast keeps of parameters: it knows them by the parameter, not by its data."""
    torch.clear_autocast_cache()
