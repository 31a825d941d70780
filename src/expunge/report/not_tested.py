"""What an audit does not say: every kind of test it left out, in words, and every score it lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from expunge.audit.run.plan import Role
from expunge.metrics.base import MetricRole
from expunge.report.numbers import plural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from expunge.report.run import AuditRun

DEPLOYED = {"gptq", "awq", "gguf"}
"""Families of formats that do not round every weight to the nearest value."""


class NotTested(NamedTuple):
    """Something that was not tested, and what it could have shown."""

    what: str
    why: str


def not_tested(run: AuditRun) -> list[NotTested]:
    """What was not tested, the weightiest first."""
    return [gap for find in _FINDERS for gap in find(run)]


def unmeasured(run: AuditRun) -> list[NotTested]:
    """The metrics that were asked for and gave no number, with the reason."""
    found = []
    for name, metric in run.metrics.items():
        if not run.is_measured(name):
            own = (cell.value.reason for (_, _, other), cell in run.cells.items() if other == name)
            reason = next((each for each in own if each), "no reason given")
            found.append(NotTested(metric.title or name, reason))
    asked = set(run.metrics)
    left = (each for each in run.summary.skipped if each.metric not in asked)
    return found + [
        NotTested(each.title or each.metric, f"it lacks {', '.join(each.missing)}") for each in left
    ]


def _grids(run: AuditRun) -> Iterator[NotTested]:
    if not run.quantizers:
        yield NotTested("No reduced precision", "rounding a model to 8 or 4 bits can bring the text back.")
    elif not DEPLOYED & {run.family(label) for label in run.quantizers}:
        yield NotTested(
            "GPTQ, AWQ and GGUF files",
            "these formats round otherwise than those that were tested.",
        )


def _attacks(run: AuditRun) -> Iterator[NotTested]:
    if not run.attacks:
        yield NotTested(
            "Attacks",
            "it was not tried to train the text back in, to prune the model or to trick it with prompts.",
        )


def _broken(run: AuditRun) -> Iterator[NotTested]:
    """What was tested and could not show anything."""
    for column in run.summary.conditions:
        if column.broken is not None:
            yield NotTested(f"Anything at {column.label}", column.broken)


def _wanted(run: AuditRun) -> Iterator[NotTested]:
    """What the audit itself says it could still be given."""
    for want in run.summary.missing_inputs:
        yield NotTested(want.what[0].upper() + want.what[1:], f"{want.adds} ({want.option}).")


def _control(run: AuditRun) -> Iterator[NotTested]:
    if run.summary.missing_inputs:  # the audit's own words say it already
        return
    if run.holder(Role.RETRAINED) is None:
        yield NotTested(
            "A control",
            "no model trained without these texts was given, so what a guess alone would score is unknown.",
        )
    if run.holder(Role.TARGET) is None:
        yield NotTested("The model before", "without it nothing says how much there was to forget.")


def _wording(run: AuditRun) -> Iterator[NotTested]:
    if not _measured(run, MetricRole.PARAPHRASE) and not run.summary.missing_inputs:
        yield NotTested("Other wordings", "questions were asked only in the words of the files given.")
    yield NotTested("Other languages", "text that is gone in one language may remain in another.")


def _verbatim(run: AuditRun) -> Iterator[NotTested]:
    if not _measured(run, MetricRole.VERBATIM, MetricRole.MEMORIZATION, MetricRole.EXTRACTION):
        yield NotTested("Word-for-word recall", "no running text was given to be continued.")
    if not _measured(run, MetricRole.MEMBERSHIP):
        yield NotTested(
            "Membership",
            "whether an outsider can tell that the texts were in the training data was not measured.",
        )


def _sampling(run: AuditRun) -> Iterator[NotTested]:
    if not _measured(run, MetricRole.EXTRACTION):
        yield NotTested(
            "Repeated asking", "only the likeliest answer counts; asking many times may bring out more."
        )


def _utility(run: AuditRun) -> Iterator[NotTested]:
    if run.utility is None and not run.summary.missing_inputs:
        yield NotTested("Usefulness", "whether the model is still good for anything else was not measured.")
    own = run.sources.get("splits", {}).get("retain", {}).get("written_by_a_model", 0)
    if run.utility is not None and own:
        yield NotTested(
            "Usefulness on real texts",
            f"utility was measured on {own} texts that the model wrote itself (--retain self) and was also "
            "trained to keep.",
        )


def _unscored(run: AuditRun) -> Iterator[NotTested]:
    without = unmeasured(run)
    if without:
        yield NotTested(
            plural(len(without), "measure") + " without a number",
            "; ".join(f"{gap.what}: {gap.why}" for gap in without) + ".",
        )


_FINDERS: tuple[Callable[[AuditRun], Iterator[NotTested]], ...] = (
    _grids,
    _broken,
    _attacks,
    _wanted,
    _control,
    _utility,
    _verbatim,
    _sampling,
    _wording,
    _unscored,
)


def _measured(run: AuditRun, *roles: MetricRole) -> bool:
    return any(run.is_measured(name) for name in run.with_role(*roles))
