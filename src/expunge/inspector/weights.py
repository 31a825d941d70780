"""What a quantizer's grid erased of the unlearning, tensor by tensor."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.audit.checkpoint import Checkpoint
from expunge.audit.diagnose import compared, weights_of
from expunge.audit.summary import read_summary
from expunge.errors import ModelError
from expunge.inspector.shelf import SUMMARY
from expunge.quant.parse import parse_quantizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class Erased(NamedTuple):
    """One tensor: its weights, those unlearning changed, those of them the grid undid, and their share."""

    name: str
    weights: int
    changed: int
    undone: int

    @property
    def share(self) -> float:
        """The share of the changed weights that get the target's code again."""
        return self.undone / self.changed if self.changed else 0.0


def erased(audits: Sequence[Path], model: str, precision: str) -> list[Erased]:
    """Every tensor of an unlearned model under a quantizer; empty where no audit looked."""
    for audit in audits:
        for remark in read_summary(audit / SUMMARY).diagnostics:
            if (remark.model, remark.transform) == (model, precision) and "tensors" in remark.content:
                return [_of(each) for each in remark.content["tensors"]]
    return []


@lru_cache(maxsize=32)
def measured(target: Path, model: Path, precision: str) -> list[Erased]:
    """The same, read from the files of both models now, one tensor at a time.

    Raises:
        ModelError: the two do not consist of the same tensors, or cannot be read.
        RecipeError: the precision is not known.
    """
    before, after = (weights_of(Checkpoint(str(path))) for path in (target, model))
    found = compared(before, after, parse_quantizer(precision), model)
    if "tensors" not in found:
        raise ModelError(
            f"the weights of {model.name}",
            why=f"{found.get('why_not', 'nothing to compare')}",
            fix="Inspect it together with the checkpoint its unlearning started from.",
        )
    return [_of(each) for each in found["tensors"]]


def _of(tensor: Mapping[str, Any]) -> Erased:
    return Erased(
        str(tensor["name"]), int(tensor["weights"]), int(tensor["changed"]), int(tensor["erased"])
    )
