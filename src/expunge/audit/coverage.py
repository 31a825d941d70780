"""What a transform changed and what it left alone, short enough for a summary."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from expunge.quant.base import TensorCoverage


def condense(coverage: Iterable[TensorCoverage]) -> list[dict[str, Any]]:
    """Tensors grouped by what was done to them; those left alone by the reason, with their names."""
    groups: dict[tuple[bool, str], dict[str, Any]] = {}
    for tensor in coverage:
        changed = tensor.how is not None
        what = (tensor.how if changed else tensor.why_not) or "no reason given"
        fresh: dict[str, Any] = {"changed": changed, "what": what, "tensors": 0, "weights": 0, "names": []}
        group = groups.setdefault((changed, what), fresh)
        group["tensors"] += 1
        group["weights"] += math.prod(tensor.shape)
        if not changed:
            group["names"].append(tensor.name)
    return list(groups.values())
