"""How far unlearning moved the weights, in steps of the grid: what is shorter than a step may be erased."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expunge.report.charts.svg import drawing, tag
from expunge.report.numbers import thousands

if TYPE_CHECKING:
    from collections.abc import Iterator

    from markupsafe import Markup

    from expunge.report.run import AuditRun

HEIGHT = 84


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketChart:
    """The diagnosis of one model under one grid.

    ``shares``: the changed weights by how far they moved, in percent of all of them; ``edges`` between
    them in steps of the grid. Both are empty for a code book. ``surviving``: the share of the update left.
    """

    model: str
    condition: str
    edges: tuple[float, ...]
    shares: tuple[float, ...]
    changed: int
    surviving: float | None
    error: float | None
    prediction: str
    outcome: str

    @property
    def bins(self) -> tuple[str, ...]:
        """What each bar stands for."""
        if not self.edges:
            return ()
        between = zip(self.edges, self.edges[1:], strict=False)
        middle = (f"{low:g} to {high:g}" for low, high in between)
        return (f"below {self.edges[0]:g}", *middle, f"{self.edges[-1]:g} and more")


def buckets(run: AuditRun) -> Iterator[BucketChart]:
    """Every diagnosis of the audit, model by model."""
    diagnostics = {(remark.model, remark.condition): remark.content for remark in run.summary.diagnostics}
    for model in run.unlearned_checkpoints:
        for label in run.grids:
            content = diagnostics.get((model.name, label)) or {}
            total = content.get("total")
            if isinstance(total, dict):
                yield _read(run, model.name, label, content, total)


def _read(
    run: AuditRun, model: str, label: str, content: dict[str, Any], total: dict[str, Any]
) -> BucketChart:
    shifts = total.get("shifts") or ()
    whole = sum(shifts)
    verdict = run.summary.verdict(model, label)
    return BucketChart(
        model=model,
        condition=label,
        edges=tuple(content.get("shift_edges") or ()) if whole else (),
        shares=tuple(100 * count / whole for count in shifts) if whole else (),
        changed=total.get("changed") or 0,
        surviving=total.get("surviving"),
        error=total.get("surviving_error"),
        prediction=content.get("prediction") or "says nothing",
        outcome=verdict.outcome.value if verdict is not None else "not judged",
    )


def histogram(chart: BucketChart) -> Markup | None:
    """Bars for the shares; ``None`` for a code book, which has no single step."""
    if not chart.shares:
        return None
    width = 100 / len(chart.shares)
    most = max(chart.shares)
    bars = [
        tag(
            "rect",
            {
                "x": f"{index * width + width * 0.08:.2f}%",
                "y": f"{100 - 100 * share / most:.2f}%",
                "width": f"{width * 0.84:.2f}%",
                "height": f"{100 * share / most:.2f}%",
                "class": "column",
            },
            tag("title", {}, f"{name} steps: {share:.1f} %"),
        )
        for index, (name, share) in enumerate(zip(chart.bins, chart.shares, strict=True))
    ]
    return drawing(bars, height=HEIGHT, says=_told(chart), kind="bars")


def _told(chart: BucketChart) -> str:
    shares = "; ".join(
        f"{name} {share:.0f} %" for name, share in zip(chart.bins, chart.shares, strict=True)
    )
    weights = f"{thousands(chart.changed)} changed weights"
    return f"{chart.model} at {chart.condition}: {weights}, in steps of the grid: {shares}"
