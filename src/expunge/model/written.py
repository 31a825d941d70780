"""A checkpoint that was written, read again and compared with the model in memory.

Two things can go wrong: a tensor is stored under another name, in another layout or not at all, or the
configuration does not bring the same model back. The first shows in the tensors, the second in the logits.

It costs little memory: a checkpoint that is read in the dtype it was written in stays mapped to its file,
and tensors of an accelerator come to the CPU one at a time. It costs one reading of the files and two
forward passes over a few tokens.
Shapes: B sequences, T positions, V vocabulary.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from expunge.errors import ModelError
from expunge.model.arch import vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator

ON_CPU = "cpu"
TOKENS = 8
"""Positions that both models are asked about."""
CLOSE = {torch.float64: 1e-6, torch.float32: 1e-4}
"""How far logits may lie apart, as a share of the largest, where kernels add up in another order."""
CLOSE_IN_HALF = 2e-2


def require_same(model: nn.Module, again: nn.Module, name: str) -> None:
    """Refuse a written checkpoint, read as ``again``, that is not the ``model`` it was written from.

    All tensors are compared bit for bit, then the logits of a few tokens on the device of ``model``.
    ``name`` is what the refusal calls the checkpoint.

    Raises:
        ModelError: a tensor or the logits differ.
    """
    ours, theirs = model.state_dict(), again.state_dict()
    absent = sorted(ours.keys() ^ theirs.keys())
    if absent:
        raise _differs(name, f"{absent[0]} is in one of them only ({len(absent)} tensors)")
    changed = [name for name, tensor in ours.items() if not same_values(tensor, theirs[name])]
    if changed:
        raise _differs(name, f"{len(changed)} of {len(ours)} tensors differ, {changed[0]} first")
    with evaluating(model, again), torch.no_grad():
        tokens_BT = probe_tokens(model)
        here = _logits(model, tokens_BT)
        there = _logits_with(again, ours, tokens_BT)
    if not close(here, there):
        apart = float((here.float() - there.float()).abs().max())
        raise _differs(name, f"its weights are the same, but its logits are up to {apart:.3g} apart")


def same_values(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors hold the same numbers, bit for bit where their dtypes are the same."""
    if ours.shape != theirs.shape:
        return False
    first, second = ours.detach().cpu().contiguous(), theirs.detach().cpu().contiguous()
    if first.dtype == second.dtype:
        return torch.equal(first.reshape(-1).view(torch.uint8), second.reshape(-1).view(torch.uint8))
    return torch.equal(first.double(), second.double())


def close(here: Tensor, there: Tensor) -> bool:
    """Whether logits are those of one model, up to the order in which kernels add up."""
    share = CLOSE.get(here.dtype, CLOSE_IN_HALF)
    finite = here.isfinite()
    if not torch.equal(finite, there.isfinite()):
        return False
    largest = float(here[finite].abs().max()) if finite.any() else 0.0
    return bool(((here - there)[finite].abs() <= share * largest).all())


def probe_tokens(model: nn.Module) -> Tensor:
    """A few tokens [1, T] from all over the vocabulary."""
    size = vocabulary(model)
    step = max(size // TOKENS, 1)
    return (torch.arange(TOKENS, device=_device(model)) * step % size)[None]


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """The models without dropout while the block runs."""
    trained = [module for model in models for module in model.modules() if module.training]
    for module in trained:
        module.training = False
    try:
        yield
    finally:
        for module in trained:
            module.training = True


def _logits(model: Any, tokens_BT: Tensor) -> Tensor:
    logits_BTV: Tensor = model(input_ids=tokens_BT, use_cache=False).logits
    return logits_BTV


def _logits_with(again: nn.Module, tensors: dict[str, Tensor], tokens_BT: Tensor) -> Tensor:
    """The logits of the model that was read, with tensors that are already where ``tokens_BT`` are.

    They hold the same numbers as its own, so what remains to differ is what its configuration made of it.
    What it computes itself (the frequencies of rotary positions, say) is small and is moved.
    """
    if tokens_BT.device.type == ON_CPU:
        return _logits(again, tokens_BT)
    for module in again.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(tokens_BT.device))
    options = {"input_ids": tokens_BT, "use_cache": False}
    answer: Any = torch.func.functional_call(again, tensors, kwargs=options, tie_weights=False)
    logits_BTV: Tensor = answer.logits
    return logits_BTV


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _differs(name: str, why: str) -> ModelError:
    return ModelError(
        f"the checkpoint written to {name} is not the model in memory",
        why=f"{why}. It was removed again.",
        fix="Please report it with the name of the model; transformers may save this one in another way.",
    )
