"""Forgetting against utility: every method a point, target and control as landmarks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

from benchmarks.methods.results import FULL

STYLE = {
    "svg.hashsalt": "expunge",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.figsize": (8.4, 5.4),
    "figure.facecolor": "white",
}
POINT, LANDMARK = "#1f6feb", "#b3261e"


def draw(results: Mapping[str, Any], folder: Path) -> None:
    """Write ``methods.svg``: top left is where a method wants to be."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots()
        for row in results["methods"]:
            _mark(axes, row, colour=POINT, mark="o")
        for row in results["landmarks"]:
            _mark(axes, row, colour=LANDMARK, mark="D")
        axes.set_xlabel("KnowMem of the forget set (lower: more is forgotten)")
        axes.set_ylabel("KnowMem of the retain set (higher: more is kept)")
        figure.tight_layout()
        figure.savefig(folder / "methods.svg", metadata={"Date": None})
        plt.close(figure)


def _mark(axes: Any, row: Mapping[str, Any], *, colour: str, mark: str) -> None:
    cells = row["cells"][FULL]
    x, y = cells["knowmem_forget"]["value"], cells["utility"]["value"]
    axes.scatter([x], [y], s=22, color=colour, marker=mark)
    axes.annotate(row["model"], (x, y), xytext=(4, 2), textcoords="offset points", fontsize=7)
