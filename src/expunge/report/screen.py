"""An audit on one screen of a terminal: the headline, one table, utility, and the reasons that matter."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from expunge.audit.blocks import QUIET, advice, seeds
from expunge.audit.run.plan import FULL, Role
from expunge.audit.table import STYLES
from expunge.report.numbers import number
from expunge.report.verdicts import ANSWERS, cell_word, edited, headline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from expunge.report.run import AuditRun

SIGNS = {
    "good": ("✓", "green"),
    "bad": ("!", "bold red"),
    "warn": ("~", "magenta"),
    "open": ("?", "yellow"),
}
"""Of a verdict, by its mark in the report."""
GAP = 3
MOST_REASONS = 5


def screen(run: AuditRun, *, width: int = 80) -> RenderableType:
    """The audit for a terminal of ``width`` characters; ``audit --verbose`` prints every table instead."""
    head = headline(run)
    parts: list[RenderableType] = [Text(head.verdict, style="bold"), Text("")]
    if run.lead is not None:
        parts += _tables(run, run.lead, width)
        parts += [Text(line, style="dim") for line in _on_fewer_items(run, run.lead)]
    parts += [Text(line) for line in _utility(run)]
    parts += [Text(line, style="dim") for line in seeds(run.summary)]
    parts += [Text(line, style="yellow") for line in edited(run)]
    parts += _reasons(run)
    missing = [item.option for item in advice(run.summary)]
    if missing:
        parts.append(Text(f"would add information: {', '.join(missing)}", style="dim"))
    return Group(*parts)


def _tables(run: AuditRun, lead: str, width: int) -> Iterator[RenderableType]:
    """One row a model, one cell a condition: what it knows, and the sign of the verdict."""
    metric = run.metrics[lead]
    rows = {
        model.name: [_cell(run, model.name, label, lead) for label in run.labels]
        for model in run.models
        if model.seed_of is None
    }
    used = {cell[-1] for cells in rows.values() for cell in cells if cell[-1] in _MEANINGS}
    yield Text(f"{metric.title or metric.name}, {metric.scale}", style="dim")
    names = max(map(len, rows))
    for columns in _fitting(run.labels, list(rows.values()), width - names - GAP):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column("", no_wrap=True)
        for index in columns:
            table.add_column(Text(_heading(run, run.labels[index])), no_wrap=True)
        for name, cells in rows.items():
            table.add_row(Text(name), *(_styled(cells[index]) for index in columns))
        yield table
    if used:
        meanings = "   ".join(meaning for sign, meaning in _MEANINGS.items() if sign in used)
        yield Text(meanings, style="dim")
    yield Text("")


_MEANINGS = {
    "✓": "✓ forgotten, stays so, no leak",
    "!": "! not forgotten, comes back",
    "~": "~ partly, or not usable",
    "?": "? open, or no worse than full",
}


def _heading(run: AuditRun, label: str) -> str:
    return "full" if label == FULL.label else f"({label})" if label in run.broken else label


def _cell(run: AuditRun, model: str, label: str, metric: str) -> str:
    value = run.cell(model, label, metric).value.value
    shown = number(value, scale=run.metrics[metric].scale)
    mark = _mark(run, model, label)
    return f"{shown} {SIGNS[mark][0]}" if mark else shown


def _mark(run: AuditRun, model: str, label: str) -> str:
    if label in run.broken or run.summary.verdict(model, label) is None:
        return ""
    answer = run.summary.forgotten(model)
    if label == FULL.label and answer is not None:
        return ANSWERS[answer.answer]
    return cell_word(run, model, label)[1]


def _styled(cell: str) -> Text:
    style = next((style for sign, style in SIGNS.values() if cell.endswith(sign)), "")
    return Text(cell, style=style)


def _fitting(labels: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[list[int]]:
    """The columns of each table, so that none is wider than the terminal."""
    columns: list[int] = []
    taken = 0
    for index, label in enumerate(labels):
        wide = max(len(label) + 2, *(len(row[index]) for row in rows)) + GAP
        if columns and taken + wide > width:
            yield columns
            columns, taken = [], 0
        columns.append(index)
        taken += wide
    yield columns


def _on_fewer_items(run: AuditRun, metric: str) -> Iterator[str]:
    """Attacks that learn some of the questions ask the others alone: what these give at full precision."""
    scale = run.metrics[metric].scale
    for label in run.labels:
        cells = [(model.name, run.cell(model.name, label, metric)) for model in run.judged]
        values = {name: cell.baseline for name, cell in cells if cell.baseline is not None}
        asked = {cell.n for cell in values.values()}
        whole = {run.cell(name, FULL.label, metric).value.n for name in values}
        if len(asked) == 1 and asked != whole:
            at_full = ", ".join(
                f"{name} {number(each.value, scale=scale)}" for name, each in values.items()
            )
            yield f"{label} asks {asked.pop()} of them; these alone at full precision: {at_full}"


def _utility(run: AuditRun) -> list[str]:
    if run.utility is None:
        return []
    metric = run.metrics[run.utility]
    values = {
        (model.name, label): run.cell(model.name, label, metric.name).value.value
        for model in run.judged
        for label in run.labels
        if label not in run.broken
    }
    known = {place: value for place, value in values.items() if value is not None}
    if not known:
        return []
    (model, label), least = min(known.items(), key=lambda item: item[1])
    target = run.holder(Role.TARGET)
    before = "" if target is None else f"target {_at_full(run, target)}, "
    here = ", ".join(f"{each.name} {_at_full(run, each.name)}" for each in run.judged)
    worst = (
        "" if label == FULL.label else f"; at worst {number(least, scale=metric.scale)} ({model}, {label})"
    )
    return [f"{metric.title or metric.name}, {metric.scale}: {before}{here}{worst}"]


def _at_full(run: AuditRun, model: str) -> str:
    metric = run.metrics[run.utility or ""]
    return number(run.cell(model, FULL.label, metric.name).value.value, scale=metric.scale)


def _reasons(run: AuditRun) -> list[Text]:
    """One line for each reason that needs attention, and where it holds; equal ones together."""
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    styles: dict[tuple[str, str], str] = {}
    single = {model.name for model in run.models if model.seed_of is not None}
    for row in run.summary.verdicts:
        if row.model in single or row.verdict.outcome in QUIET or not _mark(run, row.model, row.condition):
            continue
        key = (row.model, run.titled(row.verdict.reason))
        places[key].append("full precision" if row.condition == FULL.label else row.condition)
        styles[key] = STYLES[row.verdict.outcome]
    lines = [
        Text(f"{model} at {', '.join(where)}: {reason}", style=styles[model, reason])
        for (model, reason), where in places.items()
    ]
    more = len(lines) - MOST_REASONS
    rest = [Text(f"and {more} more: --verbose", style="dim")] if more > 0 else []
    return lines[:MOST_REASONS] + rest
