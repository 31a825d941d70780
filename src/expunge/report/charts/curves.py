"""Training curves: what each loss did while the model unlearned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from markupsafe import Markup

from expunge.report.charts.svg import tag

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from expunge.report.run import AuditRun

LOSS = "loss"
NAMES = {"loss": "total loss", "loss_forget": "forget loss", "loss_retain": "retain loss"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One loss of one stage over its epochs."""

    model: str
    stage: str
    name: str
    epochs: tuple[float, ...]
    values: tuple[float, ...]


def curves(run: AuditRun) -> Iterator[Curve]:
    """The losses of every unlearned model whose record was found; the total only where it has no parts."""
    for model in run.unlearned_checkpoints:
        for index, stage in enumerate(run.record_of(model.name).get("stages", ())):
            history: Sequence[Mapping[str, Any]] = stage.get("history") or ()
            names = sorted({key for row in history for key in row if key.startswith(LOSS)})
            for name in [candidate for candidate in names if candidate != LOSS] or names:
                yield from _curve(model.name, str(stage.get("stage", index)), name, history)


def polyline(curve: Curve) -> Markup:
    """The curve, stretched over its place; the numbers at both ends are written beside it."""
    low, high = min(curve.values), max(curve.values)
    first, last = curve.epochs[0], curve.epochs[-1]
    coordinates = " ".join(
        f"{100 * (epoch - first) / ((last - first) or 1):.2f},{_down(value, low, high):.2f}"
        for epoch, value in zip(curve.epochs, curve.values, strict=True)
    )
    drawn = tag(
        "polyline", {"points": coordinates, "class": "curve", "vector-effect": "non-scaling-stroke"}
    )
    says = (
        f"{curve.model}, {NAMES.get(curve.name, curve.name)}: from {curve.values[0]:.3g} to "
        f"{curve.values[-1]:.3g} in {last:g} epochs, between {low:.3g} and {high:.3g}"
    )
    return tag(
        "svg",
        {
            "class": "chart curves",
            "height": 84,
            "viewBox": "0 0 100 100",
            "preserveAspectRatio": "none",
            "role": "img",
            "aria-label": says,
        },
        drawn,
    )


def _curve(model: str, stage: str, name: str, history: Sequence[Mapping[str, Any]]) -> Iterator[Curve]:
    rows = [(row.get("epoch"), row.get(name)) for row in history]
    known = [(x, y) for x, y in rows if _finite(x) and _finite(y)]
    if len(known) > 1:
        epochs, values = zip(*known, strict=True)
        yield Curve(model=model, stage=stage, name=name, epochs=epochs, values=values)


def _finite(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _down(value: float, low: float, high: float) -> float:
    return 96 - 92 * (value - low) / ((high - low) or 1)
