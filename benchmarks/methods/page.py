"""``docs/methods.md``: tables and findings, made from the committed results and from nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.methods.arms import NOT_METHODS, settings_of
from benchmarks.methods.findings import findings, stops
from benchmarks.methods.results import FULL
from expunge.catalogue import recipe_names
from expunge.files import write_text

COLUMNS = {
    "knowmem_forget": "forget ↓",
    "paraphrase_questions": "paraphrased ↓",
    "verbmem": "verbatim ↓",
    "neighbours": "neighbours ↑",
    "utility": "utility ↑",
    "privleak": "PrivLeak → 0",
}


def fill(path: Path, results: Mapping[str, Any]) -> None:
    """Replace what stands between ``<!-- NAME -->`` and ``<!-- end -->`` by what that name stands for."""
    text = path.read_text(encoding="utf-8")
    parts = {
        "scores": scores(results),
        "stops": stops(results),
        "findings": findings(results),
        "settings": settings(results),
    }
    for name, made in parts.items():
        between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, times = between.subn(lambda match, made=made: f"{match[1]}\n{made}\n\n{match[2]}", text)
        if times != 1:
            raise ValueError(f"{path} has {times} places for {name}")
    write_text(path, text)


def scores(results: Mapping[str, Any]) -> str:
    """One row per method, those that forget most while they keep 90 % of the target's utility first."""
    target, _ = results["landmarks"]
    floor = 0.9 * target["cells"][FULL]["utility"]["value"]
    ranked = sorted(results["methods"], key=lambda row: _rank(row, floor))
    heading = ["", *COLUMNS.values(), "forget at int4", "CPU s", "MiB"]
    rows = [_row(row) for row in (*results["landmarks"], *ranked)]
    return _markdown(heading, rows)


def settings(results: Mapping[str, Any]) -> str:
    """What was changed in each published recipe, and why; and which recipes are not in the table."""
    shown = {row["model"] for row in results["methods"]}
    rows = [
        [
            f"`{row['model']}`",
            row["title"],
            " ".join(f"`{one}`" for one in row["set"]) or "-",
            settings_of(row["model"]).why or "-",
        ]
        for row in sorted(results["methods"], key=lambda row: row["model"])
    ]
    table = _markdown(["recipe", "description", "settings for this dataset", "reason"], rows)
    absent = [name for name in recipe_names() if name not in shown and name not in NOT_METHODS]
    reasons = [f"- `{name}`: {settings_of(name).left_out or 'not run yet.'}" for name in absent]
    return "\n".join([table, *(["", "Not in the table:", "", *reasons] if reasons else [])])


def _rank(row: Mapping[str, Any], floor: float) -> tuple[bool, float]:
    cells = row["cells"][FULL]
    return cells["utility"]["value"] < floor, cells["knowmem_forget"]["value"]


def _row(row: Mapping[str, Any]) -> list[str]:
    full, rounded = row["cells"][FULL], row["cells"]["int4"]
    numbers = [_number(full[metric]) for metric in COLUMNS]
    costs = (
        [f"{row['cpu_seconds']:.0f}", f"{row['peak_memory_mib']:.0f}"] if "cpu_seconds" in row else ["", ""]
    )
    name = f"`{row['model']}`" if "cpu_seconds" in row else f"*{row['model']}*"
    return [name, *numbers, _number(rounded["knowmem_forget"]), *costs]


def _number(cell: Mapping[str, Any]) -> str:
    if cell["value"] is None:
        return "-"
    if cell["low"] is None:  # the items are too few to say how sure this is
        return f"{cell['value']:.0f}"
    return f"{cell['value']:.0f} [{cell['low']:.0f}, {cell['high']:.0f}]"


def _markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
