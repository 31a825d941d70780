"""The table of an audit under attack on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from expunge.audit.plan import Role

if TYPE_CHECKING:
    from expunge.audit.attacked_results import AttackSummary
    from expunge.audit.stats import Estimate

HEADINGS = ("attack", "metric", "model", "before", "after", "leak before", "leak", "recovery", "verdict")


def attack_table(summary: AttackSummary) -> Table:
    """Every model before and under every attack, what it has over the control, and the verdict."""
    table = Table(box=box.SIMPLE_HEAD, caption=MEANING, caption_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading in HEADINGS[3:8] else "left", overflow="fold")
    last = ("", "")
    for row in summary.rows:
        if row.metric == "utility":
            continue
        place = (row.attack, row.metric)
        table.add_row(
            *(place if place != last else ("", "")),
            row.model if row.role is Role.UNLEARNED else f"{row.model} ({row.role})",
            _number(row.before),
            _number(row.after),
            _between(row.leak_before),
            _between(row.leak),
            _between(row.recovery),
            row.verdict if row.role is Role.UNLEARNED else ("" if row.valid is not False else row.verdict),
        )
        last = place
    return table


MEANING = (
    "leak: what it has over the retrained model under the same attack; recovery: the leak as a share of "
    "the target's. An attack that leaves less than 90 % of the utility says nothing."
)


def _number(estimate: Estimate | None) -> str:
    return "-" if estimate is None or estimate.value is None else f"{estimate.value:.3g}"


def _between(estimate: Estimate | None) -> str:
    if estimate is None or estimate.value is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return _number(estimate)
    return f"{estimate.value:.3g} [{estimate.low:.2g}, {estimate.high:.2g}]"
