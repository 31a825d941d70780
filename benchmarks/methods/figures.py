"""Forgetting against utility: every method a point, target and control as landmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.text import Text

from benchmarks.methods.results import FULL
from benchmarks.pooling import RETRAINED, TARGET

STYLE = {
    "svg.hashsalt": "expunge",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "figure.figsize": (8.4, 10.5),
    "figure.facecolor": "white",
}
POINT, LANDMARK = "#1f6feb", "#b3261e"
NEAR = 13
"""Points around the control that are shown once more, larger."""
DOT = 3
"""Half the width of a point, in pixels."""
PLACES = [
    (side * across, up, "left" if side > 0 else "right")
    for across in (6, 14, 30, 50)
    for up in (0, 7, -7, 14, -14, 21, -21, 28, -28, 36, -36)
    for side in (1, -1)
]
"""Where a name may stand from its point, in points: the nearest first."""


Box = tuple[float, float, float, float]


def draw(results: Mapping[str, Any], folder: Path) -> None:
    """Write ``methods.svg``: all methods, and below the corner where a method wants to be."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [*results["landmarks"], *results["methods"]]
    control = next(_at(row) for row in results["landmarks"] if row["model"] == RETRAINED)
    with mpl.rc_context(STYLE):
        figure, (whole, corner) = plt.subplots(2, 1, height_ratios=(3, 4))
        near = [
            row for row in rows if _at(row)[0] <= control[0] + NEAR and _at(row)[1] >= control[1] - NEAR
        ]
        figure.tight_layout(h_pad=2)
        _plot(whole, rows, named=[row for row in rows if row not in near])
        _plot(corner, near, named=near)
        whole.set_title("all methods", loc="left")
        corner.set_title("those that forget about as much as the control and keep most", loc="left")
        for axes in (whole, corner):
            axes.set_ylabel("KnowMem of the retain set, higher is better")
        corner.set_xlabel("KnowMem of the forget set, lower is better")
        figure.tight_layout(h_pad=2)
        figure.savefig(folder / "methods.svg", metadata={"Date": None})
        plt.close(figure)


def _at(row: Mapping[str, Any]) -> tuple[float, float]:
    cells = row["cells"][FULL]
    return cells["knowmem_forget"]["value"], cells["utility"]["value"]


def _is_near(point: tuple[float, float], control: tuple[float, float]) -> bool:
    return point[0] <= control[0] + NEAR and point[1] >= control[1] - NEAR


def _plot(axes: Any, rows: Sequence[Mapping[str, Any]], *, named: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        landmark = row["model"] in (TARGET, RETRAINED)
        axes.scatter(
            *_at(row), s=22, color=LANDMARK if landmark else POINT, marker="D" if landmark else "o"
        )
    axes.margins(x=0.12, y=0.08)
    taken = [_around(axes, row) for row in rows]
    for row in sorted(named, key=lambda row: -_at(row)[1]):
        _name(axes, row, taken)


def _around(axes: Any, row: Mapping[str, Any]) -> Box:
    x, y = axes.transData.transform(_at(row))
    return x - DOT, y - DOT, x + DOT, y + DOT


def _name(axes: Any, row: Mapping[str, Any], taken: list[Box]) -> None:
    """Write a name beside its point where nothing is yet, with a line if that is far."""
    text = axes.annotate(
        row["model"],
        _at(row),
        xytext=(0, 0),
        textcoords="offset points",
        fontsize=7,
        va="center",
        arrowprops={"arrowstyle": "-", "lw": 0.4, "color": "#888888", "shrinkA": 0, "shrinkB": 2},
    )
    for dx, dy, side in PLACES:
        text.set(position=(dx, dy), ha=side)
        text.update_positions(axes.figure.canvas.get_renderer())
        box = Text.get_window_extent(text)  # that of the annotation has the line in it
        found = (box.x0, box.y0, box.x1, box.y1)
        if not any(_meet(found, other) for other in taken):
            break
    text.arrow_patch.set_visible(abs(dx) > PLACES[0][0] or abs(dy) > PLACES[2][1])
    taken.append(found)


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
