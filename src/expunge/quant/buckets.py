"""Bucket diagnostics: what a quantizer does to an unlearning update, from the weights alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from expunge.model.precision import movable_below
from expunge.quant.grid import widen
from expunge.quant.plain import plain_pair, plain_weights, require_pair

if TYPE_CHECKING:
    from expunge.model.precision import WeightPrecision
    from expunge.model.tensors import Weights
    from expunge.quant.base import Quantizer
    from expunge.quant.grid import Grid

__all__ = ["BucketCounts", "BucketReport", "Prediction", "TensorBuckets", "compare", "diagnose", "predict"]

SHIFT_EDGES = (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 0.5, 1.0)
"""Edges of the histogram of |Δw|/D: below the first, between two, from the last on."""

COMES_BACK_BELOW = 0.5
"""Less than this share of the update surviving predicts a return.

In simulations of AdamW on normal weights the share is below 0.03 when the movable range is inside
the zero bucket, and 0.9 to 1.4 when the weights are float32 or the range reaches well beyond it; only
grids whose bucket ends just where the movable range does (FP4 at lr 1e-5, say) fall in between.
"""

CRITICAL_RATIO = 2.0**-8
"""Half a bf16 unit in the last place: a step moves weights up to about 2^8 times its size."""

Prediction = Literal["comes back", "holds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketCounts:
    """Counts and sums over the weights of one tensor, or of all (``name="total"``).

    ``same``: codes equal, each model on its own scale; ``same_on_target``: both on the target's
    scale. ``erased``: changed weights whose code did not change. ``shifts``: changed weights by
    |Δw|/D. ``kept`` = ⟨Q(u) - Q(o), Δ⟩, ``moved`` = ⟨Δ, Δ⟩, ``noise`` = the variance of ``kept``
    expected of weights uniform in their buckets. ``half_step``: median D/2 over blocks. What needs a
    uniform grid is ``None`` for code books, what needs a learning rate is ``None`` without one.
    """

    name: str
    weights: int
    changed: int
    same: int
    erased: int
    kept: float
    moved: float
    same_on_target: int | None = None
    shifts: tuple[int, ...] | None = None
    noise: float | None = None
    half_step: float | None = None
    movable: int | None = None
    movable_in_zero: int | None = None

    @property
    def same_share(self) -> float | None:
        """Share of codes equal to the target's, each model on its own scale."""
        return _ratio(self.same, self.weights)

    @property
    def same_on_target_share(self) -> float | None:
        """Share of codes equal to the target's, both on the target's scale."""
        return _ratio(self.same_on_target, self.weights)

    @property
    def erased_share(self) -> float | None:
        """Share of the changed weights that get the target's code again."""
        return _ratio(self.erased, self.changed)

    @property
    def movable_share(self) -> float | None:
        """Share of weights that can move at all at the learning rate and weight precision."""
        return _ratio(self.movable, self.weights)

    @property
    def movable_in_zero_share(self) -> float | None:
        """Share of the movable weights that the target's grid rounds to zero."""
        return None if self.movable is None else _ratio(self.movable_in_zero, self.movable)

    @property
    def critical_lr(self) -> float | None:
        """The learning rate under which bf16 weights move only inside the zero bucket: (D/2)·2^-8."""
        return None if self.half_step is None else self.half_step * CRITICAL_RATIO

    @property
    def surviving(self) -> float | None:
        """The share of the update left after rounding: ⟨Q(u) - Q(o), Δ⟩ / ⟨Δ, Δ⟩.

        1 on average when weights lie anywhere in their buckets, 0 when the change is erased; it can
        exceed 1 when the weights that move sit near a bucket's edge. ``None`` when nothing moved.
        """
        return _ratio(self.kept, self.moved)

    @property
    def surviving_error(self) -> float | None:
        """The standard deviation of ``surviving`` by chance alone, for weights uniform in their buckets."""
        return None if self.noise is None else _ratio(math.sqrt(self.noise), self.moved)

    def to_dict(self) -> dict[str, Any]:
        """Counts and shares as JSON."""
        shares = (
            "same_share",
            "same_on_target_share",
            "erased_share",
            "movable_share",
            "movable_in_zero_share",
            "critical_lr",
            "surviving",
            "surviving_error",
        )
        return asdict(self) | {name: getattr(self, name) for name in shares}


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketReport:
    """One quantizer's effect on one update: pooled over the tensors it touches, and tensor by tensor.

    ``untouched``: the share of ‖Δ‖² that is in parameters the quantizer leaves alone (embeddings,
    norms); the shares of ``total`` say nothing about that part. ``calibrated``: the quantizer reads text
    before it rounds, which this report does not: it rounds to nearest on the same grid, and predicts
    nothing from that.
    """

    quantizer: str
    calibrated: bool = False
    lr: float | None
    precision: WeightPrecision | None
    untouched: float | None
    total: BucketCounts
    tensors: tuple[BucketCounts, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON, with the edges of the histogram and the prediction."""
        return {
            "comparable": True,
            "quantizer": self.quantizer,
            "codes": "nearest on its grid, not calibrated" if self.calibrated else "its own",
            "lr": self.lr,
            "precision": self.precision,
            "untouched": self.untouched,
            "shift_edges": list(SHIFT_EDGES),
            "prediction": None if self.calibrated else predict(self.total.surviving),
            "total": self.total.to_dict(),
            "tensors": [tensor.to_dict() for tensor in self.tensors],
        }


def predict(surviving: float | None, *, threshold: float = COMES_BACK_BELOW) -> Prediction | None:
    """Whether what was unlearned comes back under the quantizer; ``None`` when no weight moved.

    It speaks of the change of behaviour that unlearning brought about, so it means something only for a
    model that did forget at full precision.
    """
    if surviving is None:
        return None
    return "comes back" if surviving < threshold else "holds"


def _ratio(part: float | None, total: float) -> float | None:
    return None if part is None or total == 0 else part / total


# What a quantizer does to an unlearning update, read from the weights alone, before any evaluation.
#
# The published account (Zhang et al. 2025, arXiv 2410.16454, Sec. 5) says that updates smaller than a
# bucket vanish. Rounding to nearest does not do that by itself: a weight uniform in its bucket of width
# D crosses over with odds |u|/D and then moves by a whole D, so the mean effect survives. What destroys
# it is a *correlation* between "may move" and "is tiny": bf16 weights move only below
# 2^(floor(log2 lr) + 9), and when that is inside the zero bucket every change is erased. The surviving
# share tells the two apart; the share of erased changes alone does not.
#
# Shapes: O outputs, I inputs of a linear layer.

Number = TypeVar("Number", int, float)


class TensorBuckets(NamedTuple):
    """One tensor's buckets, and the step D of each of its blocks (float32; empty for a code book)."""

    buckets: BucketCounts
    steps: Tensor


def diagnose(
    target: nn.Module | Weights,
    unlearned: nn.Module | Weights,
    quantizer: Quantizer,
    *,
    lr: float | None = None,
    precision: WeightPrecision | None = None,
) -> BucketReport:
    """What ``quantizer`` does to the update that leads from ``target`` to ``unlearned``.

    Tensors are read one at a time. A calibrated quantizer is taken as rounding to nearest on its grid.
    With ``lr`` and ``precision`` of the training the report also says which weights could move at all.

    Raises:
        NotAPairError: the two have different tensors.
        ModelError: one of them cannot be quantized (see ``Quantizer.applied``).
    """
    before, after = plain_weights(target), plain_weights(unlearned)
    require_pair(before, after)
    limit = _movable_limit(lr, precision)
    compared, elsewhere = [], 0.0
    for name, weight in before.matrices.items():
        old_OI, new_OI = plain_pair(name, weight.load(), after.matrices[name].load())
        if quantizer.why_not(old_OI) is None:
            compared.append(compare(name, old_OI, new_OI, quantizer, movable_limit=limit))
        else:
            elsewhere += _moved(old_OI, new_OI)
    for name, weight in before.others.items():
        elsewhere += _moved(*plain_pair(name, weight.load(), after.others[name].load()))
    total = _pooled(compared)
    everywhere = total.moved + elsewhere
    return BucketReport(
        quantizer=quantizer.label,
        calibrated=quantizer.calibrated,
        lr=lr,
        precision=precision,
        untouched=elsewhere / everywhere if everywhere else None,
        total=total,
        tensors=tuple(comparison.buckets for comparison in compared),
    )


@torch.no_grad()
def compare(
    name: str,
    target_OI: Tensor,
    unlearned_OI: Tensor,
    quantizer: Quantizer,
    *,
    movable_limit: float | None = None,
) -> TensorBuckets:
    """The buckets of one weight before and after unlearning.

    ``movable_limit``: the magnitude from which on weights could not move while unlearning.
    """
    target_OI = target_OI.to(unlearned_OI.device)
    old_OI, new_OI = quantizer.quantize(target_OI), quantizer.quantize(unlearned_OI)
    delta_OI = widen(unlearned_OI) - widen(target_OI)
    jump_OI = widen(new_OI.dequantized) - widen(old_OI.dequantized)
    changed_OI = delta_OI != 0
    same_OI = old_OI.codes == new_OI.codes
    buckets = BucketCounts(
        name=name,
        weights=delta_OI.numel(),
        changed=_count(changed_OI),
        same=_count(same_OI),
        erased=_count(same_OI & changed_OI),
        kept=(jump_OI * delta_OI).sum().item(),
        moved=delta_OI.square().sum().item(),
    )
    if movable_limit is not None:
        movable_OI = target_OI.abs() < movable_limit
        in_zero_OI = movable_OI & (old_OI.dequantized == 0)
        buckets = replace(buckets, movable=_count(movable_OI), movable_in_zero=_count(in_zero_OI))
    if quantizer.grid is None:
        return TensorBuckets(buckets, torch.empty(0))
    return _on_grid(buckets, quantizer.grid, target_OI, unlearned_OI, delta_OI)


def _on_grid(
    buckets: BucketCounts, grid: Grid, target_OI: Tensor, unlearned_OI: Tensor, delta_OI: Tensor
) -> TensorBuckets:
    """Add what only a uniform grid can say."""
    fit = grid.fit(target_OI)
    step_OI = grid.spread(fit.step, target_OI.shape)
    same_OI = grid.encode(target_OI, fit) == grid.encode(unlearned_OI, fit)
    size_OI = delta_OI.abs()
    edges = torch.tensor(SHIFT_EDGES, dtype=delta_OI.dtype, device=delta_OI.device)
    shifts = torch.bucketize((size_OI / step_OI)[size_OI > 0], edges, right=True)
    # A weight uniform in its bucket crosses with odds |Δ|/D and then jumps by D: variance |Δ|·D - Δ².
    noise = (size_OI.square() * (size_OI * step_OI - size_OI.square()).clamp(min=0)).sum()
    steps = fit.step.flatten().float().cpu()
    return TensorBuckets(
        replace(
            buckets,
            same_on_target=_count(same_OI),
            shifts=tuple(torch.bincount(shifts, minlength=len(SHIFT_EDGES) + 1).tolist()),
            noise=noise.item(),
            half_step=steps.median().item() / 2,
        ),
        steps,
    )


def _pooled(compared: list[TensorBuckets]) -> BucketCounts:
    tensors = [comparison.buckets for comparison in compared]
    steps = torch.cat([torch.empty(0), *(comparison.steps for comparison in compared)])
    shifts = [tensor.shifts for tensor in tensors if tensor.shifts is not None]
    return BucketCounts(
        name="total",
        weights=sum(tensor.weights for tensor in tensors),
        changed=sum(tensor.changed for tensor in tensors),
        same=sum(tensor.same for tensor in tensors),
        erased=sum(tensor.erased for tensor in tensors),
        kept=math.fsum(tensor.kept for tensor in tensors),
        moved=math.fsum(tensor.moved for tensor in tensors),
        same_on_target=_sum(tensor.same_on_target for tensor in tensors),
        shifts=tuple(sum(column) for column in zip(*shifts, strict=True)) if shifts else None,
        noise=_sum(tensor.noise for tensor in tensors),
        half_step=steps.median().item() / 2 if steps.numel() else None,
        movable=_sum(tensor.movable for tensor in tensors),
        movable_in_zero=_sum(tensor.movable_in_zero for tensor in tensors),
    )


def _sum(values: Iterable[Number | None]) -> Number | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _count(where: Tensor) -> int:
    return int(where.sum().item())


def _moved(before: Tensor, after: Tensor) -> float:
    return (widen(after) - widen(before.to(after.device))).square().sum().item()


def _movable_limit(lr: float | None, precision: WeightPrecision | None) -> float | None:
    if precision == "bf16":
        return None if lr is None else movable_below(lr)
    return None if precision is None else math.inf
