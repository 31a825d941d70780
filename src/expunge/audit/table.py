"""An audit as tables: one block per metric and one for the verdicts, models down, transforms across."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from expunge.audit.plan import Role
from expunge.audit.verdict import Outcome

if TYPE_CHECKING:
    from rich.console import RenderableType

    from expunge.audit.stats import Estimate
    from expunge.audit.summary import MetricBlock, ModelRow, Summary

STYLES = {
    Outcome.FORGOT: "green",
    Outcome.HELD: "green",
    Outcome.CAME_BACK: "bold red",
    Outcome.DID_NOT_FORGET: "red",
    Outcome.UNUSABLE: "magenta",
    Outcome.CANNOT_TELL: "yellow",
}
SHARE = "  % of target"
"""The row below an unlearned model: what it keeps of the target's value under the same transform."""
NOTHING = "–"
GAP = 3
"""Characters between two columns."""
QUIET = (Outcome.FORGOT, Outcome.HELD)
"""Outcomes that need no reason under the tables; summary.json gives it."""


@dataclass(frozen=True, slots=True)
class Block:
    """One table as text: a title, a header, and rows that begin with their label."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def render(summary: Summary, *, width: int = 100) -> RenderableType:
    """The audit for a terminal ``width`` characters wide; more transforms than fit go below."""
    tables = [_table(block) for block in _fitting(summary, width)]
    told = [(outcome, reason) for outcome, reason in reasons(summary) if outcome not in QUIET]
    read = [Text(line, style="dim") for line in calibrations(summary)]
    return Group(*tables, *read, *(Text(reason, style=STYLES[outcome]) for outcome, reason in told))


def to_text(summary: Summary, *, width: int = 100) -> str:
    """The audit as plain text for a log."""
    console = Console(width=width, no_color=True, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(render(summary, width=width))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def to_markdown(summary: Summary) -> str:
    """The audit as Markdown tables."""
    lines: list[str] = []
    for block in blocks(summary, columns=len(summary.transforms)):
        lines += [f"**{block.title}**", ""]
        if block.header:
            lines += [_pipes(block.header), _pipes(("---",) * len(block.header))]
            lines += [*(_pipes(row) for row in block.rows), ""]
    lines += [f"- {line}" for line in (*calibrations(summary), *(reason for _, reason in reasons(summary)))]
    return "\n".join(lines).rstrip() + "\n"


def blocks(summary: Summary, *, columns: int) -> list[Block]:
    """Every table, ``columns`` transforms at a time; the verdicts last."""
    labels = [transform.label for transform in summary.transforms]
    groups = [labels[start : start + columns] for start in range(0, len(labels), columns)]
    found = [_metric_block(summary, metric, group) for metric in summary.metrics for group in groups]
    judged = [model for model in summary.models if model.role is Role.UNLEARNED]
    return found + [_verdict_block(summary, judged, group) for group in groups if judged]


def calibrations(summary: Summary) -> list[str]:
    """One line for each quantizer that read text before it rounded: which text."""
    return [
        "{0}: calibrated on {name}, at most {samples} x {length} tokens, seed {seed}".format(
            each.label, **each.calibration
        )
        for each in summary.transforms
        if each.calibration is not None
    ]


def reasons(summary: Summary) -> list[tuple[Outcome, str]]:
    """One line for each verdict: where, what, why."""
    return [
        (row.verdict.outcome, f"{row.model} · {row.transform}: {row.verdict.outcome}: {row.verdict.reason}")
        for row in summary.verdicts
    ]


def shown(estimate: Estimate | None, *, digits: int = 1) -> str:
    """A number and its interval, ``81.3 [76, 86]``; a dash where there is none."""
    if estimate is None or estimate.value is None:
        return NOTHING
    value = _rounded(estimate.value, digits)
    if estimate.low is None or estimate.high is None:
        return value
    # Hundredths of a 0-1 scale are what it is read in; elsewhere a bound needs no more than units.
    coarse = digits if digits > 1 else 0
    return f"{value} [{_rounded(estimate.low, coarse)}, {_rounded(estimate.high, coarse)}]"


def _rounded(value: float, digits: int) -> str:
    short = f"{round(value, digits) + 0.0:.{digits}f}"  # the zero turns a rounded -0.0 into 0.0
    return short.removesuffix(".0") if abs(value) >= 100 else short


def _metric_block(summary: Summary, metric: MetricBlock, labels: list[str]) -> Block:
    cells = {
        (model.name, label): summary.cell(model.name, label, metric.name)
        for model in summary.models
        for label in labels
    }
    estimates = [cell.value for cell in cells.values()]
    if all(estimate.value is None for estimate in estimates):
        why = next((each.reason for each in estimates if each.reason), "no reason given")
        return Block(f"{metric.title}: not measured, {why}", (), ())
    better = {None: "", True: ", lower is better", False: ", higher is better"}[metric.lower_is_better]
    items = max(estimate.n for estimate in estimates)
    digits = 2 if metric.scale == "0-1" else 1
    rows = []
    for model in _in_order(summary.models):
        own = [cells[model.name, label] for label in labels]
        rows.append((model.name, *(shown(cell.value, digits=digits) for cell in own)))
        if metric.lower_is_better and model.role is Role.UNLEARNED and any(cell.retention for cell in own):
            rows.append((SHARE, *(shown(cell.retention, digits=0) for cell in own)))
    title = f"{metric.title} ({metric.scale}{better}, {items} items)"
    return Block(title, ("", *labels), tuple(rows))


def _verdict_block(summary: Summary, judged: list[ModelRow], labels: list[str]) -> Block:
    rows = []
    for model in judged:
        verdicts = [summary.verdict(model.name, label) for label in labels]
        rows.append((model.name, *(NOTHING if each is None else each.outcome.value for each in verdicts)))
    return Block("Verdict", ("", *labels), tuple(rows))


def _in_order(models: tuple[ModelRow, ...]) -> list[ModelRow]:
    """The target, the retrained model, then the unlearned ones as they were named."""
    return sorted(models, key=lambda model: list(Role).index(model.role))


def _table(block: Block) -> RenderableType:
    if not block.header:
        return Text(f"{block.title}\n", style="dim")
    # Text, not str: rich would read square brackets in a name as markup.
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in block.header:
        table.add_column(Text(name), no_wrap=True, overflow="fold")
    styles = {outcome.value: style for outcome, style in STYLES.items()}
    for label, *cells in block.rows:
        dim = "dim" if label == SHARE else ""
        table.add_row(Text(label, style=dim), *(Text(cell, style=styles.get(cell, dim)) for cell in cells))
    return Group(Text(block.title, style="bold"), table, Text(""))


def _fitting(summary: Summary, width: int) -> list[Block]:
    """Every table cut so that it fits: as many transforms side by side as its numbers leave room for."""
    most = len(summary.transforms)
    cuts = [_by_title(blocks(summary, columns=columns)) for columns in range(most, 0, -1)]
    return [
        block
        for title in cuts[0]
        for block in next(
            (cut[title] for cut in cuts if max(map(_wide, cut[title])) <= width), cuts[-1][title]
        )
    ]


def _by_title(found: list[Block]) -> dict[str, list[Block]]:
    return {block.title: [other for other in found if other.title == block.title] for block in found}


def _wide(block: Block) -> int:
    """Characters the widest row of a block takes."""
    if not block.header:
        return 0
    columns = zip(*(block.header, *block.rows), strict=True)
    return sum(max(map(len, column)) + GAP for column in columns)


def _pipes(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.strip() for cell in cells)} |"
