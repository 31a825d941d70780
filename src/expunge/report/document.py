"""The report for programs (JSON, CSV) and for model cards (Markdown)."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

import expunge
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
FORMAT = 1
"""Counts up when a field goes or changes its meaning; new fields may come without."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Number(_Part):
    """A number with its interval; ``value`` is null where it is undefined, ``reason`` then says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = Field(0, description="items it rests on")
    reason: str | None = None
    by_split: dict[str, int] | None = Field(
        None, description="items of each split, where there are several"
    )
    p: float | None = Field(None, description="of a difference: chance of one as large if there were none")
    p_table: float | None = Field(None, description="of a difference: p for all its table together (Holm)")
    detectable: float | None = Field(None, description="of a difference: the smallest that would be told")
    conclusion: str | None = Field(None, description="of a difference: differs, same or cannot tell")


class ModelFacts(_Part):
    """A model of the audit."""

    name: str
    role: str = Field(description="target, retrained or unlearned")
    sha256: str
    seeds: tuple[str, ...] = Field((), description="of a recipe: the models it is the mean of")
    command: str = Field("", description="the command line that made it, if expunge did")


class ConditionFacts(_Part):
    """What the models were measured under."""

    label: str
    kind: str = Field(description="full precision, quantizer or attack; empty where the audit does not say")
    family: str = Field("", description="of a quantizer: the algorithm or file format")
    target_retention: dict[str, Number] = Field(
        {}, description="by metric: percent the target keeps of what it has at full precision"
    )
    broken: str | None = Field(None, description="why nothing can be told under it")


class MetricFacts(_Part):
    """A metric of the audit."""

    name: str
    title: str
    definition: str
    source: str
    scale: str
    lower_is_better: bool | None
    role: str = Field(description="knowledge, verbatim, utility, ... : what verdicts and reports choose by")
    points: float | None = Field(None, description="of a metric that decides: the rise that is a recovery")


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


class CellVerdict(_Part):
    """The verdict on an unlearned model under one condition."""

    model: str
    condition: str
    outcome: str
    reason: str
    stays: str | None = Field(None, description="whether it stays so; null at full precision")


class CellNumbers(_Part):
    """One metric of one model under one condition."""

    model: str
    condition: str
    metric: str
    value: Number
    recovery: Number | None = Field(None, description="points over the same model at full precision")
    retention: Number | None = Field(None, description="percent of the target under the same condition")
    excess: Number | None = Field(None, description="points over the retrained model, same condition")
    retention_over_control: Number | None = Field(
        None, description="percent of what the target has over the retrained model, same condition"
    )
    recovery_against_target: Number | None = Field(
        None, description="points over full precision, had the condition cost the target nothing"
    )


class Untested(_Part):
    """What the audit does not say."""

    what: str
    why: str


class Document(_Part):
    """An audit of unlearned models, as ``expunge report --format json`` writes it."""

    format: int = FORMAT
    expunge: str = Field(description="the version that wrote the document")
    audited: str = Field(description="when the audit began, ISO 8601")
    verdict: str
    certainty: str
    edited: tuple[str, ...] = Field((), description="files changed after the audit wrote them")
    models: tuple[ModelFacts, ...]
    labels: tuple[str, ...] = Field(description="of the conditions, full precision first")
    conditions: tuple[ConditionFacts, ...] = Field((), description="the same, with what is known of each")
    metrics: tuple[MetricFacts, ...]
    model_verdicts: tuple[ModelVerdict, ...]
    verdicts: tuple[CellVerdict, ...]
    cells: tuple[CellNumbers, ...]
    not_tested: tuple[Untested, ...]


def document(run: AuditRun) -> Document:
    """The report of one run."""
    head = headline(run)
    return Document(
        expunge=expunge.__version__,
        audited=str(run.record.get("started", "")),
        verdict=head.verdict,
        certainty=head.certainty,
        edited=run.edited,
        models=tuple(
            ModelFacts(
                name=origin.name,
                role=origin.role,
                sha256=model.hash,
                seeds=model.seeds,
                command=origin.command,
            )
            for origin, model in zip(facts.origins(run), run.models, strict=True)
        ),
        labels=tuple(run.labels),
        conditions=tuple(
            ConditionFacts(**{**column.model_dump(), "kind": column.kind or ""})
            for column in run.summary.conditions
        ),
        metrics=tuple(MetricFacts(**metric.model_dump()) for metric in run.summary.metrics),
        model_verdicts=tuple(_model_verdict(run, card) for card in head.cards),
        verdicts=tuple(
            CellVerdict(
                model=row.model,
                condition=row.condition,
                outcome=row.verdict.outcome,
                reason=row.verdict.reason,
                stays=row.stays,
            )
            for row in run.summary.verdicts
        ),
        cells=tuple(CellNumbers(**cell.model_dump()) for cell in run.summary.cells),
        not_tested=tuple(Untested(what=gap.what, why=gap.why) for gap in not_tested(run)),
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
