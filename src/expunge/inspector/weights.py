"""What a quantizer's grid erased of the unlearning, tensor by tensor: the audit's diagnostics."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from expunge.audit.summary import read_summary
from expunge.inspector.shelf import SUMMARY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Erased(NamedTuple):
    """One tensor: its weights, those unlearning changed, and the share of these that the grid undid."""

    name: str
    weights: int
    changed: int
    share: float


def erased(audits: Sequence[Path], model: str, precision: str) -> list[Erased]:
    """Every tensor of an unlearned model under a quantizer; empty where no audit looked."""
    for audit in audits:
        for remark in read_summary(audit / SUMMARY).diagnostics:
            if (remark.model, remark.transform) == (model, precision):
                return [_of(each) for each in remark.content["tensors"]]
    return []


def _of(tensor: dict[str, float | str]) -> Erased:
    changed, undone = int(tensor["changed"]), int(tensor["erased"])
    share = undone / changed if changed else 0.0
    return Erased(str(tensor["name"]), int(tensor["weights"]), changed, share)
