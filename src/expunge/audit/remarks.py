"""What is said below an audit's tables: verdicts' reasons, texts calibrated on, what more would tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from expunge.audit.blocks import has_verdicts
from expunge.audit.verdict import Outcome

if TYPE_CHECKING:
    from expunge.audit.summary import Summary

QUIET = (Outcome.FORGOT, Outcome.HELD)
"""Outcomes that need no reason under the tables; summary.json gives it."""


class Advice(NamedTuple):
    """Something the audit could still be given, as an option, and what it would add."""

    option: str
    text: str


def notes(summary: Summary) -> list[str]:
    """What a reader must know of rows and columns: recipes of several seeds, texts calibrated on."""
    return [*seeds(summary), *calibrations(summary)]


def seeds(summary: Summary) -> list[str]:
    """One line for each recipe that was run with several seeds: which models it stands for."""
    of = {each.name: each.seeds for each in summary.models if each.seeds}
    return [
        f"{name}: mean of {len(own)} seeds ({', '.join(own)}), intervals over both seeds and items"
        for name, own in of.items()
    ]


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
    """One line for each verdict: where, what, why; not of the single seeds of a recipe."""
    seeds = {model.name for model in summary.models if model.seed_of is not None}
    rows = [row for row in summary.verdicts if row.model not in seeds] if has_verdicts(summary) else []
    return [
        (row.verdict.outcome, f"{row.model} · {row.transform}: {row.verdict.outcome}: {row.verdict.reason}")
        for row in rows
    ]


def loud_reasons(summary: Summary) -> list[tuple[Outcome, str]]:
    """Those of ``reasons`` that a reader must not miss."""
    return [(outcome, reason) for outcome, reason in reasons(summary) if outcome not in QUIET]


def advice(summary: Summary) -> list[Advice]:
    """What more would tell, and which metrics were left out for want of it."""
    found = []
    for want in summary.wanted:
        names = [each.metric for each in summary.left_out if want.name in each.lacks]
        without = f" Left out without it: {', '.join(names)}." if names else ""
        found.append(Advice(want.option, f"{want.what}: {want.adds}.{without}"))
    return found
