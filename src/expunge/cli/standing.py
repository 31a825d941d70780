"""How the requests of a model stand, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from expunge.terminal import Terminal

COLOURS = {"still forgotten": "green", "came back": "red", "not checked": "yellow"}


def show_standing(requests: Sequence[Mapping[str, Any]]) -> None:
    """Print each request with what was known of it before, right after, and is known now (0-100)."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("", "forgotten", "texts", "metric", "before", "then", "now", ""):
        is_number = heading in ("texts", "before", "then", "now")
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold")
    for one in requests:
        table.add_row(
            str(one["number"]),
            Text(Path(one["forget_file"]).name),
            str(one["examples"]),
            one["metric"],
            *(_points(one[moment]) for moment in ("before", "then", "now")),
            Text(one["verdict"], COLOURS.get(one["verdict"], "")),
        )
    Terminal().print(table)


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
