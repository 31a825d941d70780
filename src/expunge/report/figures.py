"""The charts as files for a paper: PNG or SVG, drawn by matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from expunge.audit.run.plan import Role
from expunge.errors import MissingExtraError
from expunge.report.charts.arrows import arrows, landmarks
from expunge.report.charts.scatter import points

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from expunge.report.run import AuditRun

HOT, COOL, SOFT, LINE = "#b23a0e", "#3a557d", "#535a68", "#dcd8ce"
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": "#1a1f29",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "expunge",
    "svg.fonttype": "none",
}
STILL = 0.01
"""A shift below this share of the axis is drawn as a point: an arrow's head is longer."""
INCH_PER_ROW = 0.26
MARKERS = {Role.TARGET: "s", Role.RETRAINED: "D", Role.UNLEARNED: "o"}


def write_figures(run: AuditRun, folder: Path, suffix: str) -> list[Path]:
    """Every figure the run has the numbers for, as ``folder/<name>.<suffix>``.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("figures as PNG or SVG", extra="figures") from error
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with mpl.rc_context(STYLE):
        for name, draw in _drawings(run):
            figure = Figure(layout="constrained", dpi=200)
            draw(figure)
            path = folder / f"{name}.{suffix}"
            # Without a date the same audit gives the same bytes.
            figure.savefig(path, metadata={"Date": None} if suffix == "svg" else None)
            written.append(path)
    return written


def _drawings(run: AuditRun) -> Iterator[tuple[str, Callable[[Any], None]]]:
    if run.lead is not None and run.judged and run.grids:
        yield "recovery", lambda figure: _recovery(run, run.lead or "", figure)
    if list(points(run)):
        yield "tradeoff", lambda figure: _tradeoff(run, figure)


def _recovery(run: AuditRun, metric: str, figure: Any) -> None:
    rows = list(arrows(run, metric))
    marks = landmarks(run, metric)
    figure.set_size_inches(6.5, 0.9 + INCH_PER_ROW * len(rows))
    axes = figure.subplots()
    for index, row in enumerate(rows):
        hot = HOT if row.came_back else COOL
        if row.full.value is None or row.there.value is None:
            continue
        if row.there.low is not None and row.there.high is not None:
            axes.plot([row.there.low, row.there.high], [index, index], color=hot, alpha=0.25, linewidth=5)
        axes.plot(
            row.full.value, index, "o", markerfacecolor="white", markeredgecolor="black", markersize=5
        )
        if abs(marks.share(row.there.value) - marks.share(row.full.value)) <= STILL:
            axes.plot(row.there.value, index, ".", color=hot, markersize=5)
            continue
        style = {"arrowstyle": "-|>", "color": hot, "linewidth": 2, "shrinkA": 2, "shrinkB": 0}
        axes.annotate("", (row.there.value, index), (row.full.value, index), arrowprops=style)
    for value, name in ((marks.target, "target"), (marks.control, "retrained")):
        if value is not None:
            axes.axvline(value, color=SOFT, linewidth=0.8, linestyle=":")
            axes.annotate(name, (value, -0.9), color=SOFT, ha="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [f"{row.model} · {row.condition}" for row in rows])
    axes.set_xlim(marks.low - 0.02 * (marks.high - marks.low), marks.high + 0.02 * (marks.high - marks.low))
    axes.set_ylim(len(rows) - 0.4, -1.1)
    axes.set_xlabel(run.metrics[metric].title or metric)


def _tradeoff(run: AuditRun, figure: Any) -> None:
    figure.set_size_inches(5.2, 3.6)
    axes = figure.subplots()
    for point in points(run):
        if point.known.value is None or point.useful.value is None:
            continue
        color = COOL if point.role is Role.UNLEARNED else SOFT
        if not point.is_full:
            axes.plot(point.known.value, point.useful.value, ".", color=color, markersize=3)
            continue
        at = (point.known.value, point.useful.value)
        axes.plot(*at, MARKERS[point.role], color=color, markersize=6)
        axes.annotate(point.model, at, (5, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel(run.metrics[run.lead or ""].title)
    axes.set_ylabel(run.metrics[run.utility or ""].title)
    axes.grid(color=LINE, linewidth=0.5)
