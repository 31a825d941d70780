"""Two models whose weights are compared: plain floats, the same tensors."""

from __future__ import annotations

from torch import Tensor, nn

from expunge.errors import ModelError
from expunge.model.tensors import Weights, in_memory
from expunge.quant.plain import require_plain, require_plain_tensor


class NotAPairError(ModelError):
    """The target and the unlearned model do not consist of the same tensors."""


def plain_weights(model: nn.Module | Weights) -> Weights:
    """The weights of a model; those read from files are checked as they are read."""
    if isinstance(model, Weights):
        return model
    require_plain(model)
    return in_memory(model)


def plain_pair(name: str, old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """One tensor of either model.

    Raises:
        ModelError: one of them is not what would be deployed (see ``require_plain_tensor``).
    """
    for tensor in (old, new):
        require_plain_tensor(name, tensor)
    return old, new


def require_pair(before: Weights, after: Weights) -> None:
    """Refuse models of different architectures.

    Raises:
        NotAPairError: a tensor is missing in one of them, or has another shape.
    """
    old, new = ({**each.matrices, **each.others} for each in (before, after))
    differing = sorted(
        name
        for name in old.keys() | new.keys()
        if name not in old or name not in new or old[name].shape != new[name].shape
    )
    if differing:
        raise NotAPairError(
            "the target and the unlearned model are not a pair",
            why=f"{differing[0]} is missing in one of them or has another shape.",
            fix="Give the checkpoint that unlearning started from as the target.",
        )
