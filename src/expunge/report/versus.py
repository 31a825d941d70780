"""Two runs side by side: both verdicts, every number that both have, and what differs in their making."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expunge.report import facts
from expunge.report.numbers import NOTHING, interval, number
from expunge.report.verdicts import headline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from expunge.audit.statistics.bootstrap import Estimate
    from expunge.audit.summary import MetricBlock
    from expunge.report.run import AuditRun


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedNumber:
    """One number of both runs; an empty string where a run has none."""

    first: str
    second: str
    first_interval: str
    second_interval: str
    change: str
    mark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTable:
    """One metric: models down, conditions across."""

    metric: MetricBlock
    labels: tuple[str, ...]
    rows: tuple[tuple[str, tuple[ComparedNumber | None, ...]], ...]


def side_by_side(first: AuditRun, second: AuditRun) -> dict[str, Any]:
    """What the page of two runs shows."""
    return {
        "runs": [
            {"letter": letter, "run": run, "head": headline(run)}
            for letter, run in (("A", first), ("B", second))
        ],
        "tables": [table for table in _tables(first, second) if table.rows],
        "differences": list(differences(first, second)),
        "alone": [
            name for name in _either(first.metrics, second.metrics) if not _both(first, second, name)
        ],
    }


def differences(first: AuditRun, second: AuditRun) -> Iterator[tuple[str, str, str]]:
    """What was not the same: name, in the first run, in the second."""
    pairs = [(_flat_facts(first), _flat_facts(second))]
    for model in _either(_names(first), _names(second)):
        recipes = [_recipe(run, model) for run in (first, second)]
        if all(recipes):  # against a run that kept none, every setting would differ
            pairs.append((recipes[0], recipes[1]))
    for one, two in pairs:
        for name in _either(one, two):
            if one.get(name) != two.get(name):
                yield name, one.get(name, NOTHING), two.get(name, NOTHING)


def _tables(first: AuditRun, second: AuditRun) -> Iterator[PairTable]:
    labels = tuple(label for label in first.labels if label in second.labels)
    for name, metric in first.metrics.items():
        if not _both(first, second, name):
            continue
        yield PairTable(
            metric=metric,
            labels=labels,
            rows=tuple(
                (
                    model if model == other else f"{model} | {other}",
                    tuple(
                        _pair(
                            first.cell(model, label, name).value,
                            second.cell(other, label, name).value,
                            metric,
                        )
                        for label in labels
                    ),
                )
                for model, other in _partners(first, second)
            ),
        )


def _partners(first: AuditRun, second: AuditRun) -> Iterator[tuple[str, str]]:
    """Models that are compared: of one role and name, or the only ones of their role."""
    for model in first.models:
        same = [other.name for other in second.models if other.role is model.role]
        alone = sum(other.role is model.role for other in first.models) == 1 and len(same) == 1
        if model.name in same:
            yield model.name, model.name
        elif alone:
            yield model.name, same[0]


def _both(first: AuditRun, second: AuditRun, metric: str) -> bool:
    return all(metric in run.metrics and run.is_measured(metric) for run in (first, second))


def _pair(one: Estimate, two: Estimate, metric: MetricBlock) -> ComparedNumber | None:
    if one.value is None and two.value is None:
        return None
    change = None if one.value is None or two.value is None else two.value - one.value
    return ComparedNumber(
        first=number(one.value, scale=metric.scale),
        second=number(two.value, scale=metric.scale),
        first_interval=interval(one, scale=metric.scale),
        second_interval=interval(two, scale=metric.scale),
        change=number(change, scale=metric.scale, sign=True),
        mark=_mark(one, two, metric.lower_is_better),
    )


def _mark(one: Estimate, two: Estimate, lower_is_better: bool | None) -> str:
    """Whether B is clearly worse or better: its interval and A's do not touch."""
    ends = (one.low, one.high, two.low, two.high)
    if lower_is_better is None or any(end is None for end in ends):
        return ""
    low_1, high_1, low_2, high_2 = (end for end in ends if end is not None)
    if high_1 >= low_2 and high_2 >= low_1:
        return ""
    rose = low_2 > high_1
    return "worse" if rose == lower_is_better else "better"


def _flat_facts(run: AuditRun) -> dict[str, str]:
    hashes = {f"{model.name}: SHA-256": model.hash for model in run.models}
    return dict(facts.settings(run)) | dict(facts.versions(run)) | hashes


def _names(run: AuditRun) -> list[str]:
    return [model.name for model in run.models]


def _recipe(run: AuditRun, model: str) -> dict[str, str]:
    stages = (run.record_of(model).get("recipe") or {}).get("stages", ())
    return {f"{model}: {name}": value for name, value in _leaves(stages, "")}


def _leaves(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple) and any(isinstance(inner, dict) for inner in value):
        for place, inner in enumerate(value):
            yield from _leaves(inner, path if len(value) == 1 else f"{path}[{place}]")
    else:
        yield path, str(value)


def _either(one: Any, two: Any) -> list[str]:
    return list(dict.fromkeys([*one, *two]))
