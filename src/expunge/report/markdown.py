"""The report as Markdown for a model card: verdict, limits, tables, how to reproduce; no item's text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.errors import printable
from expunge.report import facts
from expunge.report.heat import heat_maps
from expunge.report.items import read_items
from expunge.report.untested import gaps
from expunge.report.verdicts import headline

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from expunge.report.heat import HeatCell, HeatMap
    from expunge.report.run import Run

SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\`*_[]<>|#"} | {"\n": " "})


def to_markdown(run: Run) -> str:
    """The report of one run."""
    return "\n".join(_lines(run)).rstrip() + "\n"


def _lines(run: Run) -> Iterator[str]:
    head = headline(run)
    yield from ("## Unlearning audit", "", f"**{plain(head.verdict)}** {plain(head.certainty)}", "")
    for warning in head.warnings:
        yield from (f"**{plain(warning)}**", "")
    yield from (f"- {name}: {plain(value)}" for name, value in facts.asked(run, read_items(run)))
    yield ""
    if head.cards:
        rows = ((card.model, card.word, card.sentence) for card in head.cards)
        yield from table(("model", "verdict", "because"), rows)
    yield from ("### Not tested", "")
    yield from (f"- **{plain(gap.what)}**: {plain(gap.why)}" for gap in gaps(run))
    yield from ("", "### Numbers", "")
    for found in heat_maps(run):
        yield from _map(run, found)
    yield from _commands(run)


def _map(run: Run, found: HeatMap) -> Iterator[str]:
    metric = found.metric
    about = ", ".join(part for part in (metric.scale, found.better, found.items) if part)
    yield from (f"**{plain(metric.title or metric.name)}** ({about}). {plain(metric.definition)}.", "")
    rows = ((row.model, *(_cell(cell) for cell in row.cells)) for row in found.rows)
    yield from table(("", *run.labels), rows)


def _cell(cell: HeatCell) -> str:
    parts = (cell.value, f"({cell.interval})" if cell.interval else "", cell.change)
    return " ".join(part for part in parts if part)


def _commands(run: Run) -> Iterator[str]:
    found = [origin.command for origin in facts.origins(run)] + [facts.command(run.record)]
    lines = list(dict.fromkeys(line for line in found if line))
    if lines:
        yield from ("### To reproduce", "", "```sh", *map(printable, lines), "```", "")
    yield from (f"- `{model.name}`: SHA-256 `{model.hash}`" for model in run.models)


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A table, and the empty line that ends it."""
    header = tuple(header)
    yield _pipes(header)
    yield _pipes(("---",) * len(header))
    yield from (_pipes(plain(cell) for cell in row) for row in rows)
    yield ""


def plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return printable(text).translate(SPECIAL)


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
