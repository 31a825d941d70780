"""An audit's tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from expunge.audit.blocks import NO_WORSE, SHARE, Block, advice, blocks, notes, warnings
from expunge.audit.forgetting import Durability, Forgotten
from expunge.audit.verdict import Outcome

if TYPE_CHECKING:
    from rich.console import RenderableType

    from expunge.audit.summary import AuditSummary

STYLES = {
    Outcome.FORGOT: "green",
    Outcome.HELD: "green",
    Outcome.CAME_BACK: "bold red",
    Outcome.DID_NOT_FORGET: "red",
    Outcome.UNUSABLE: "magenta",
    Outcome.CANNOT_TELL: "yellow",
    Outcome.LEAKS: "bold red",
    Outcome.NO_LEAK: "green",
    Outcome.FORGOT_IN_PART: "magenta",
}
WORDS = {
    Forgotten.YES.value: "green",
    Forgotten.PARTLY.value: "magenta",
    Forgotten.NO.value: "red",
    Durability.STAYS_FORGOTTEN.value: "green",
    NO_WORSE: "yellow",
}
"""How the answers look that are no outcomes."""
GAP = 3
"""Characters between two columns."""
MORE = "Inputs that would add information"


def render(summary: AuditSummary, *, width: int = 100) -> RenderableType:
    """The audit for a terminal ``width`` characters wide; more columns than fit go below."""
    tables = [_table(block) for block in _fitting(summary, width)]
    read = [Text(line, style="dim") for line in notes(summary)]
    reasons = [Text(reason, style=STYLES[outcome]) for outcome, reason in warnings(summary)]
    return Group(*tables, *read, *reasons, *_advice(summary))


def _table(block: Block) -> RenderableType:
    if not block.header:
        return Text(f"{block.title}\n", style="dim")
    # Text, not str: rich would read square brackets in a name as markup.
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in block.header:
        table.add_column(Text(name), no_wrap=True, overflow="fold")
    styles = {outcome.value: style for outcome, style in STYLES.items()} | WORDS
    for label, *cells in block.rows:
        dim = "dim" if label == SHARE else ""
        table.add_row(Text(label, style=dim), *(Text(cell, style=styles.get(cell, dim)) for cell in cells))
    note = [Text(block.note, style="dim")] if block.note else []
    return Group(Text(block.title, style="bold"), table, *note, Text(""))


def _advice(summary: AuditSummary) -> list[RenderableType]:
    items = advice(summary)
    if not items:
        return []
    grid = Table.grid(padding=(0, GAP - 1))
    grid.add_column(overflow="fold", max_width=26)
    grid.add_column(overflow="fold")
    for item in items:
        grid.add_row(Text(item.option), Text(item.text, style="dim"))
    return [Text(MORE, style="bold"), grid]


def _most(summary: AuditSummary) -> int:
    return max(len(summary.conditions), len(summary.models))


def _fitting(summary: AuditSummary, width: int) -> list[Block]:
    """Every table cut so that it fits: as many columns side by side as its numbers leave room for."""
    cuts = [_by_title(blocks(summary, columns=columns)) for columns in range(_most(summary), 0, -1)]
    return [
        block
        for title in cuts[0]
        for block in next(
            (cut[title] for cut in cuts if max(map(_wide, cut[title])) <= width), cuts[-1][title]
        )
    ]


def _by_title(tables: list[Block]) -> dict[str, list[Block]]:
    return {block.title: [other for other in tables if other.title == block.title] for block in tables}


def _wide(block: Block) -> int:
    """Characters the widest row of a block takes."""
    if not block.header:
        return 0
    columns = zip(*(block.header, *block.rows), strict=True)
    return sum(max(map(len, column)) + GAP for column in columns)
