"""The report for programs (JSON, CSV) and for model cards (Markdown)."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

import expunge
from expunge.audit.summary import AuditSummary
from expunge.errors import printable
from expunge.files import write_json
from expunge.report import facts
from expunge.report.heat import heat_maps
from expunge.report.items import read_items
from expunge.report.not_tested import not_tested
from expunge.report.numbers import NOTHING
from expunge.report.verdicts import headline

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from expunge.audit.statistics.bootstrap import Estimate
    from expunge.report.heat import HeatCell, HeatMap
    from expunge.report.run import AuditRun
    from expunge.report.verdicts import VerdictCard

SCHEMA = Path("docs/schema/report.schema.json")
FORMAT = 2
"""Counts up when a field goes or changes its meaning; new fields may come without."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ModelVerdict(_Part):
    """The worst that was found of an unlearned model."""

    model: str
    outcome: str
    sentence: str
    worst: str = Field(description="the condition under which the most came back")
    forgotten: str = Field(description="yes, partly, no or cannot tell: at full precision")
    why: str = Field(description="what the answer rests on")
    word_for_word: int | None = Field(None, description="answers still given in the words of the truth")
    asked: int | None = Field(None, description="of how many")
    stays: str = Field(description="whether it stays so, by condition, in words")
    useful: str = Field(description="utility at full precision, and before unlearning; may be empty")


class Untested(_Part):
    """What the audit does not say."""

    what: str
    why: str


class Document(_Part):
    """An audit of unlearned models, as ``expunge report --format json`` writes it.

    The numbers are those of ``summary.json``, in its form; beside them stands what the report concludes.
    """

    format: int = FORMAT
    expunge: str = Field(description="the version that wrote the document")
    audited: str = Field(description="when the audit began, ISO 8601")
    verdict: str
    certainty: str
    edited: tuple[str, ...] = Field((), description="files changed after the audit wrote them")
    commands: dict[str, str] = Field(
        {}, description="by model: the command line that made it, if expunge did"
    )
    model_verdicts: tuple[ModelVerdict, ...]
    not_tested: tuple[Untested, ...]
    summary: AuditSummary


def document(run: AuditRun) -> Document:
    """The report of one run."""
    head = headline(run)
    return Document(
        expunge=expunge.__version__,
        audited=str(run.record.get("started", "")),
        verdict=head.verdict,
        certainty=head.certainty,
        edited=run.edited,
        commands={origin.name: origin.command for origin in facts.origins(run) if origin.command},
        model_verdicts=tuple(_model_verdict(run, card) for card in head.cards),
        not_tested=tuple(Untested(what=gap.what, why=gap.why) for gap in not_tested(run)),
        summary=run.summary,
    )


def _model_verdict(run: AuditRun, card: VerdictCard) -> ModelVerdict:
    row = run.summary.forgotten(card.model)
    return ModelVerdict(
        model=card.model,
        outcome=card.outcome,
        sentence=card.sentence,
        worst=card.worst,
        forgotten=card.forgotten,
        why="" if row is None else row.reason,
        word_for_word=None if row is None else row.word_for_word,
        asked=None if row is None else row.asked,
        stays=card.stays,
        useful=card.useful,
    )


def schema() -> dict[str, Any]:
    """The JSON schema of ``Document``; ``python -m expunge.report.document`` writes it."""
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, **Document.model_json_schema(mode="serialization")}


ENDS = ("value", "low", "high", "n")
COLUMNS = (
    *("model", "role", "condition", "metric", *ENDS, "reason"),
    *(f"{kind}{end}" for kind in ("recovery", "retention", "excess") for end in ("", "_low", "_high")),
    "verdict",
)


def to_csv(run: AuditRun) -> str:
    """Every estimate as one row: value, recovery and retention with their intervals, and the verdict."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    roles = {model.name: model.role.value for model in run.models}
    for cell in run.summary.cells:
        verdict = run.summary.verdict(cell.model, cell.condition)
        estimate = cell.value
        writer.writerow(
            (
                *(_unlike_a_formula(name) for name in (cell.model, roles[cell.model], cell.condition)),
                *(
                    cell.metric,
                    estimate.value,
                    estimate.low,
                    estimate.high,
                    estimate.n,
                    estimate.reason or "",
                ),
                *_three(cell.recovery),
                *_three(cell.retention),
                *_three(cell.excess),
                verdict.outcome.value if verdict is not None else "",
            )
        )
    return out.getvalue()


def _three(estimate: Estimate | None) -> tuple[float | None, float | None, float | None]:
    return (None, None, None) if estimate is None else (estimate.value, estimate.low, estimate.high)


def _unlike_a_formula(text: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


if __name__ == "__main__":
    write_json(SCHEMA, schema())


# The report as Markdown for a model card: verdict, limits, tables, how to reproduce; no item's text.

SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\`*_[]<>|#"} | {"\n": " "})


def to_markdown(run: AuditRun) -> str:
    """The report of one run."""
    return "\n".join(_lines(run)).rstrip() + "\n"


def _lines(run: AuditRun) -> Iterator[str]:
    head = headline(run)
    yield from ("## Unlearning audit", "", f"**{plain(head.verdict)}** {plain(head.certainty)}", "")
    for warning in head.warnings:
        yield from (f"**{plain(warning)}**", "")
    yield from (f"- {name}: {plain(value)}" for name, value in facts.asked(run, read_items(run)))
    yield ""
    if head.cards:
        rows = (
            (card.model, card.forgotten, card.stays, card.useful or NOTHING, card.sentence)
            for card in head.cards
        )
        yield from table(("model", "forgotten?", "does it stay so?", "still useful", "because"), rows)
    yield from ("### Not tested", "")
    yield from (f"- **{plain(gap.what)}**: {plain(gap.why)}" for gap in not_tested(run))
    yield from ("", "### Numbers", "")
    for heat_map in heat_maps(run):
        yield from _map(run, heat_map)
    yield from _commands(run)


def _map(run: AuditRun, heat_map: HeatMap) -> Iterator[str]:
    metric = heat_map.metric
    about = ", ".join(part for part in (metric.scale, heat_map.better, heat_map.items) if part)
    yield from (f"**{plain(metric.title or metric.name)}** ({about}). {plain(metric.definition)}.", "")
    rows = ((row.model, *(_cell(cell) for cell in row.cells)) for row in heat_map.rows)
    yield from table(("", *run.labels), rows)


def _cell(cell: HeatCell) -> str:
    parts = (cell.value, f"({cell.interval})" if cell.interval else "", cell.change)
    return " ".join(part for part in parts if part)


def _commands(run: AuditRun) -> Iterator[str]:
    commands = [origin.command for origin in facts.origins(run)] + [facts.command(run.record)]
    lines = list(dict.fromkeys(line for line in commands if line))
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
