"""The tables of an audit under attack on a terminal: one for every attack and metric."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from expunge.audit.attacked_results import UTILITY
from expunge.audit.plan import Role

if TYPE_CHECKING:
    from rich.console import RenderableType

    from expunge.audit.attacked_results import AttackRow, AttackSummary
    from expunge.audit.stats import Estimate

NUMBERS = ("before", "after", "leak", "recovery")
MEANING = (
    "leak: what it has over the retrained model under the same attack. recovery: the leak as a share of "
    "the target's. An attack that leaves less than 90 % of the utility tells nothing."
)


def attack_tables(summary: AttackSummary) -> RenderableType:
    """Every model before and under every attack, what it has over the control, and the verdict."""
    rows = [row for row in summary.rows if row.metric != UTILITY]
    tables = [
        _table(f"{attack} · {metric}", list(own))
        for (attack, metric), own in groupby(rows, key=lambda row: (row.attack, row.metric))
    ]
    return Group(*tables, Text(MEANING))


def _table(title: str, rows: list[AttackRow]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("model", overflow="fold")
    for heading in NUMBERS:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for row in rows:
        table.add_row(
            row.model
            if row.model == row.role or row.role is Role.UNLEARNED
            else f"{row.model} ({row.role})",
            _number(row.before),
            _number(row.after),
            _between(row.leak),
            _between(row.recovery),
            row.verdict if row.role is Role.UNLEARNED or row.valid is False else "",
        )
    return table


def _number(estimate: Estimate) -> str:
    if estimate.value is None:
        return "-"
    return f"{estimate.value:.2g}" if abs(estimate.value) < 1 else f"{estimate.value:.3g}"


def _between(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return _number(estimate)
    return f"{_number(estimate)}\n[{estimate.low:.2g}, {estimate.high:.2g}]"
