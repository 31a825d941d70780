"""Cost and memory by number of items, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge.files import write_with


def draw(path: Path, points: Sequence[dict[str, Any]]) -> None:
    """Two panels: seconds, with the line of equal cost per item; MiB above the bare model."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Text as text and no random names: the same numbers give the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "expunge", "font.size": 9}):
        figure = Figure(figsize=(7, 2.6), layout="constrained")
        cost, memory = figure.subplots(1, 2)
        items = [point["items"] for point in points]
        per_item = points[-1]["seconds"] / items[-1]
        cost.plot(items, [per_item * count for count in items], color="0.7", label="the same for each item")
        cost.plot(items, [point["seconds"] for point in points], "o", color="C0", label="measured")
        cost.legend(frameon=False)
        cost.set(ylabel="processor seconds", ylim=(0, None))
        memory.plot(items, [point["above_mib"] for point in points], "o-", color="C1")
        memory.set(ylabel="MiB above the bare model", ylim=(0, None))
        for panel in (cost, memory):
            panel.set(xlabel="documents in the forget set", xlim=(0, None))
            panel.spines[["top", "right"]].set_visible(False)
        write_with(path, lambda scratch: figure.savefig(scratch, format="svg", metadata={"Date": None}))
