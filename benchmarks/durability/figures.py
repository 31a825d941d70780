"""The study's figures as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

COLOURS = {"bf16": "#b3261e", "fp32": "#1f6feb", "bf16_stochastic": "#7a5cc8", "lora": "#1a7f64"}
MARKS = {"bf16": "o", "fp32": "s", "bf16_stochastic": "^", "lora": "D"}
STYLE = {
    "svg.hashsalt": "expunge",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.figsize": (7.2, 4.2),
    "figure.facecolor": "white",
}


def draw(results: Mapping[str, Any], folder: Path) -> None:
    """Both figures."""
    folder.mkdir(parents=True, exist_ok=True)
    points = [point for point in results["points"] if point["return"] is not None]
    with mpl.rc_context(STYLE):
        _collapse(
            [point for point in points if point["ratio"] is not None], folder / "durability-collapse.svg"
        )
        _surviving(
            [point for point in points if point["surviving"] is not None], folder / "durability-update.svg"
        )


def _collapse(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Return against reach / (D/2): does one curve hold all rates, grids and widths?"""
    figure, axes = plt.subplots()
    rates = sorted({point["rate"] for point in points})
    for rate, colour in zip(rates, ("#8c1d18", "#c4552d", "#d79b2a", "#5b7f3a"), strict=False):
        own = [point for point in points if point["rate"] == rate]
        axes.scatter(
            [point["ratio"] for point in own],
            [100 * point["return"] for point in own],
            s=16,
            alpha=0.6,
            color=colour,
            label=f"rate {rate:g}",
            linewidths=0,
        )
    axes.axvline(1, color="grey", linewidth=1, linestyle="--")
    axes.set_xscale("log")
    axes.set_xlabel("largest weight that can move in bf16, over half a step of the grid (D/2)")
    axes.set_ylabel("way back to the target's score, %")
    axes.set_title("bf16 weights come back where what can move rounds to zero", loc="left")
    axes.legend(frameon=False)
    _save(figure, path)


def _surviving(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Return against the share of the update that survives rounding, all precisions."""
    figure, axes = plt.subplots()
    for weights, colour in COLOURS.items():
        own = [point for point in points if point["weights"] == weights]
        axes.scatter(
            [point["surviving"] for point in own],
            [100 * point["return"] for point in own],
            s=16,
            alpha=0.6,
            color=colour,
            marker=MARKS[weights],
            label=weights,
            linewidths=0,
        )
    axes.axvline(0.5, color="grey", linewidth=1, linestyle="--")
    axes.set_xlabel("share of the update that survives rounding")
    axes.set_ylabel("way back to the target's score, %")
    axes.set_title("What the weights say before anything is generated", loc="left")
    axes.legend(frameon=False)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
