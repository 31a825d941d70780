"""An audit as blocks of text: its tables, and the notes below them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.audit.forgetting import Durability
from expunge.audit.run.plan import FULL, Kind, Role
from expunge.audit.statistics.bootstrap import Conclusion
from expunge.audit.statistics.significance import describe, disagreement
from expunge.audit.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from expunge.audit.statistics.bootstrap import Estimate
    from expunge.audit.summary import AuditSummary, CellSummary, MetricBlock, ModelRow, VerdictRow

    Lookup = Callable[[str, str, str], CellSummary]
    """The cell of a model, a condition and a metric."""

QUIET = (Outcome.FORGOT, Outcome.HELD, Outcome.NO_LEAK)
"""Outcomes whose reasons are not printed below the tables; summary.json contains them."""


class Advice(NamedTuple):
    """An option that would add an input, and what it would add."""

    option: str
    text: str


def notes(summary: AuditSummary) -> list[str]:
    """Notes on rows and columns: recipes with several seeds, calibration texts."""
    return [*seeds(summary), *calibrations(summary)]


def seeds(summary: AuditSummary) -> list[str]:
    """One line for each recipe that was run with several seeds, naming its models."""
    of = {model.name: model.seeds for model in summary.models if model.seeds}
    return [
        f"{name}: mean of {len(members)} seeds ({', '.join(members)}), intervals over both seeds and items"
        for name, members in of.items()
    ]


def calibrations(summary: AuditSummary) -> list[str]:
    """One line for each calibrated quantizer, naming its calibration text."""
    return [
        "{0}: calibrated on {name}, at most {samples} x {length} tokens, seed {seed}".format(
            condition.label, **condition.calibration
        )
        for condition in summary.conditions
        if condition.calibration is not None
    ]


def reasons(summary: AuditSummary) -> list[tuple[Outcome, str]]:
    """One line for each verdict with its reason; the single seeds of a recipe are left out."""
    seeds = {model.name for model in summary.models if model.seed_of is not None}
    rows = [row for row in summary.verdicts if row.model not in seeds] if has_verdicts(summary) else []
    return [
        (row.verdict.outcome, f"{row.model} · {row.condition}: {_called(row)}: {row.verdict.reason}")
        for row in rows
    ]


def _called(row: VerdictRow) -> str:
    return row.stays.value if row.verdict.outcome is Outcome.HELD and row.stays else row.verdict.outcome


def warnings(summary: AuditSummary) -> list[tuple[Outcome, str]]:
    """Those of ``reasons`` that need attention."""
    return [(outcome, reason) for outcome, reason in reasons(summary) if outcome not in QUIET]


def advice(summary: AuditSummary) -> list[Advice]:
    """The missing inputs, with the metrics that were skipped for lack of each."""
    items = []
    for want in summary.missing_inputs:
        names = [skipped.metric for skipped in summary.skipped if want.name in skipped.missing]
        without = f" Skipped without it: {', '.join(names)}." if names else ""
        items.append(Advice(want.option, f"{want.what}: {want.adds}.{without}"))
    return items


# An audit as blocks of text: a table for each leading metric, one for the others, one for the verdicts.

SHARE = "  % of target"
"""The row below an unlearned model: its percentage of the target's value under the same condition."""
NOTHING = "–"
UNSURE = " ?"
"""Marks a number that neither differs from full precision nor is the same with confidence."""
LEADING = 8
"""Metrics with a table of their own where several models are compared; the others share one."""
TOO_FEW = "? too few items to distinguish from full precision (see 'detectable' in summary.json)"
DIGITS = {
    "0-1": 2,
    "-1 to 1": 2,
    "share, 0.5 is best": 2,
    "ratio, 0 is best": 2,
    "nats, 0 is best": 3,
    "p-value": 4,
}
"""Decimals shown, for scales where one is not enough."""
ATTACK_HEADER = ("", "full", "under attack", "over control", "recovery %")
ATTACK_NOTE = (
    "over control: points above the retrained model under the same attack (a leak). recovery: as a "
    "percentage of what the target has. An attack that leaves less than 90 % of a model's utility is "
    "inconclusive."
)
FORGOTTEN = "forgotten?"
"""The heading of full precision in the table of verdicts."""
NO_WORSE = "no worse"
STAYS = (
    "no worse: than at full precision. It did not surely forget there, or is above the retrained model "
    "under the condition."
)
ARROWS = {True: " ↓", False: " ↑", None: ""}


@dataclass(frozen=True, slots=True)
class Block:
    """One table as text: a title, a header, rows that begin with their label, and a note below."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def blocks(summary: AuditSummary, *, columns: int) -> list[Block]:
    """Every table, ``columns`` conditions (or models) side by side at a time; the verdicts last.

    The seeds of a recipe are not shown one by one: their recipe is.
    """
    cells = {(cell.model, cell.condition, cell.metric): cell for cell in summary.cells}

    def look(model: str, label: str, metric: str) -> CellSummary:
        return cells[model, label, metric]

    models = _in_order([model for model in summary.models if model.seed_of is None])
    groups = _cut([condition.label for condition in summary.conditions], columns)
    leading = summary.metrics[:LEADING] if len(models) > 1 else ()
    tables = [_metric_block(models, metric, labels, look) for metric in leading for labels in groups]
    others = summary.metrics[len(leading) :]
    tables += list(_shared_blocks(summary, models, others, columns, look)) if others else []
    tables += _attack_blocks(summary, models, look)
    return tables + [_verdict_block(summary, models, labels) for labels in groups if has_verdicts(summary)]


def has_verdicts(summary: AuditSummary) -> bool:
    """Whether there is a verdict to show: without a target there is one only if something is certain."""
    has_target = any(model.role is Role.TARGET for model in summary.models)
    if any(row.word_for_word for row in summary.forgetting):
        return True
    return any(has_target or row.verdict.outcome is not Outcome.CANNOT_TELL for row in summary.verdicts)


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


def items_in_words(estimates: Sequence[Estimate]) -> str:
    """How many items estimates rest on at most: ``36 items``, ``8 forget and 30 holdout items``."""
    largest = max(estimates, key=lambda each: each.n, default=None)
    if largest is None or not largest.by_split:
        return f"{largest.n if largest else 0} items"
    return " and ".join(f"{count} {split}" for split, count in largest.by_split.items()) + " items"


def _rounded(value: float, digits: int) -> str:
    short = f"{round(value, digits) + 0.0:.{digits}f}"  # the zero turns a rounded -0.0 into 0.0
    return short.removesuffix(".0") if abs(value) >= 100 else short


def _metric_block(
    models: Sequence[ModelRow], metric: MetricBlock, labels: Sequence[str], lookup: Lookup
) -> Block:
    """Models down, conditions across."""
    table = {model.name: [lookup(model.name, label, metric.name) for label in labels] for model in models}
    cells = [cell for cells_of_model in table.values() for cell in cells_of_model]
    if all(cell.value.value is None for cell in cells):
        return _unmeasured(metric, cells)
    rows = []
    for model in models:
        cells_of_model = table[model.name]
        rows.append((model.name, *(_marked(cell, metric) for cell in cells_of_model)))
        if (
            metric.lower_is_better
            and model.role is Role.UNLEARNED
            and any(cell.retention for cell in cells_of_model)
        ):
            rows.append((SHARE, *(shown(cell.retention, digits=0) for cell in cells_of_model)))
    better = {None: "", True: ", lower is better", False: ", higher is better"}[metric.lower_is_better]
    items = items_in_words([cell.value for cell in cells])
    title = f"{metric.title} ({metric.scale}{better}, {items})"
    return Block(title, ("", *labels), tuple(rows), _doubt(cells, metric))


def _shared_blocks(
    summary: AuditSummary,
    models: Sequence[ModelRow],
    metrics: Sequence[MetricBlock],
    columns: int,
    lookup: Lookup,
) -> Iterator[Block]:
    """Metrics down; across the conditions of the only model, else the models under each condition."""
    labels = [condition.label for condition in summary.conditions]
    names = [model.name for model in models]
    if len(names) == 1:
        tables = [(names[0], [(names[0], label, label) for label in labels])]
    else:
        tables = [
            (_under(label, leading=len(metrics) < len(summary.metrics)), [(n, label, n) for n in names])
            for label in labels
        ]
    places = [(name, label) for name in names for label in labels]

    def is_silent(metric: MetricBlock) -> bool:
        return all(lookup(*model_and_label, metric.name).value.value is None for model_and_label in places)

    for title, across in tables:
        for group in _cut(across, columns):
            yield _shared_block(
                title,
                [metric_block for metric_block in metrics if not is_silent(metric_block)],
                group,
                lookup,
            )
    for metric in filter(is_silent, metrics):
        yield _unmeasured(metric, [lookup(*model_and_label, metric.name) for model_and_label in places])


def _shared_block(
    title: str, metrics: Sequence[MetricBlock], across: Sequence[tuple[str, str, str]], lookup: Lookup
) -> Block:
    rows, unsure = [], False
    for metric in metrics:
        cells = [lookup(model, label, metric.name) for model, label, _ in across]
        texts = [_marked(cell, metric) for cell in cells]
        unsure = unsure or any(text.endswith(UNSURE) for text in texts)
        items = str(max(cell.value.n for cell in cells))
        rows.append((metric.name + ARROWS[metric.lower_is_better], items, *texts))
    note = TOO_FEW if unsure else ""
    return Block(title, ("", "items", *(heading for *_, heading in across)), tuple(rows), note)


def _attack_blocks(summary: AuditSummary, models: Sequence[ModelRow], lookup: Lookup) -> list[Block]:
    """The results of each attack, by condition and metric, one row per model."""
    labels = [column.label for column in summary.conditions if column.kind is Kind.ATTACK]
    metrics = [metric for metric in summary.metrics if metric.lower_is_better]
    tables = []
    for label in labels:
        for metric in metrics:
            digits = DIGITS.get(metric.scale, 1)
            cells = [(model, lookup(model.name, label, metric.name)) for model in models]
            if all(cell.value.value is None for _, cell in cells):
                continue
            rows = tuple(
                (
                    model.name,
                    shown(cell.baseline, digits=digits),
                    shown(cell.value, digits=digits),
                    shown(cell.excess, digits=digits),
                    shown(_percent(cell.regained), digits=0),
                )
                for model, cell in cells
            )
            tables.append(Block(f"{label} · {metric.name}", ATTACK_HEADER, rows, ""))
    if tables:
        tables[-1] = replace(tables[-1], note=ATTACK_NOTE)
    return tables


def _percent(share: Estimate | None) -> Estimate | None:
    if share is None or share.value is None:
        return share
    low, high = (None if bound is None else 100 * bound for bound in (share.low, share.high))
    return replace(share, value=100 * share.value, low=low, high=high)


def _under(label: str, *, leading: bool) -> str:
    metrics = "Other metrics" if leading else "Metrics"
    return f"{metrics} at full precision" if label == FULL.label else f"{metrics} under {label}"


def _unmeasured(metric: MetricBlock, cells: Sequence[CellSummary]) -> Block:
    why = next((cell.value.reason for cell in cells if cell.value.reason), "no reason given")
    return Block(f"{metric.title}: not measured, {why}", (), ())


def _verdict_block(summary: AuditSummary, models: Sequence[ModelRow], labels: Sequence[str]) -> Block:
    """Both answers: whether each model forgot, at full precision, and whether it stays so elsewhere."""
    rows = [
        (model.name, *(verdict_word(summary, model.name, label) for label in labels))
        for model in models
        if model.role is Role.UNLEARNED
    ]
    header = tuple(FORGOTTEN if label == FULL.label else label for label in labels)
    note = STAYS if any(word == NO_WORSE for row in rows for word in row) else ""
    return Block("Verdict", ("", *header), tuple(rows), note)


def verdict_word(summary: AuditSummary, model: str, label: str) -> str:
    """A verdict in as few words as a column has room for."""
    verdict, answer = summary.verdict(model, label), summary.forgotten(model)
    if verdict is None:
        return NOTHING
    if label == FULL.label and answer is not None:
        unusable = verdict.outcome is Outcome.UNUSABLE
        return f"{answer.answer}, {verdict.outcome}" if unusable else answer.answer.value
    stays = summary.stays(model, label)
    if stays is Durability.NO_WORSE:
        return NO_WORSE
    return stays.value if stays is Durability.STAYS_FORGOTTEN else verdict.outcome.value


def _marked(cell: CellSummary, metric: MetricBlock) -> str:
    text = shown(cell.value, digits=DIGITS.get(metric.scale, 1))
    return text + UNSURE if _is_unsure(cell) else text


def _is_unsure(cell: CellSummary) -> bool:
    recovery = cell.recovery
    return (
        recovery is not None
        and recovery.value is not None
        and recovery.conclusion is Conclusion.CANNOT_TELL
    )


def _doubt(cells: Sequence[CellSummary], metric: MetricBlock) -> str:
    """The note that explains the question marks of a table."""
    unsure = [cell.recovery for cell in cells if cell.recovery is not None and _is_unsure(cell)]
    if not unsure:
        return ""
    worst = max(unsure, key=lambda estimate: (estimate.low is None, estimate.detectable or 0.0))
    words = describe(worst, unit=" points" if metric.scale == "0-100" else "")
    odd = next(filter(None, map(disagreement, unsure)), words)
    also = "" if odd == words else f"; {odd}"
    return f"? not distinguishable from full precision: {words}{also}"


def _in_order(models: Sequence[ModelRow]) -> list[ModelRow]:
    """The target, the retrained model, then the unlearned ones as they were named."""
    return sorted(models, key=lambda model: list(Role).index(model.role))


def _cut(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
