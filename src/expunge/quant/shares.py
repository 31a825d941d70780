"""The numbers of a bucket diagnosis: counts over weights, the shares they make, and what they predict."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from expunge.model.precision import WeightPrecision

SHIFT_EDGES = (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 0.5, 1.0)
"""Edges of the histogram of |Δw|/D: below the first, between two, from the last on."""

COMES_BACK_BELOW = 0.5
"""Less than this share of the update surviving predicts a return.

In simulations of AdamW on normal weights the share is below 0.03 when the movable range lies inside
the zero bucket, and 0.9 to 1.4 when the weights are float32 or the range reaches well beyond it; only
grids whose bucket ends just where the movable range does (FP4 at lr 1e-5, say) fall in between.
"""

CRITICAL_RATIO = 2.0**-8
"""Half a bf16 unit in the last place: a step moves weights up to about 2^8 times its size."""

Prediction = Literal["comes back", "holds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
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

    ``untouched``: the share of ‖Δ‖² that lies in parameters the quantizer leaves alone (embeddings,
    norms); the shares of ``total`` say nothing about that part. ``calibrated``: the quantizer reads text
    before it rounds, which this report does not: it rounds to nearest on the same grid, and predicts
    nothing from that.
    """

    quantizer: str
    calibrated: bool = False
    lr: float | None
    precision: WeightPrecision | None
    untouched: float | None
    total: Buckets
    tensors: tuple[Buckets, ...]

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


def _ratio(part: float | None, whole: float) -> float | None:
    return None if part is None or whole == 0 else part / whole
