"""What an audit does not say: every kind of test it left out, in words, and every score it lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from expunge.audit.plan import Role
from expunge.report.numbers import plural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from expunge.report.run import Run

DEPLOYED = {"gptq", "awq", "gguf"}
"""Families of formats that do not round every weight to the nearest value."""
SAMPLED = ("sampl", "best_of", "extraction_likelihood", "sensitive_extraction")
MEMBERSHIP = ("auc", "privleak", "membership", "mia")


class Gap(NamedTuple):
    """Something that was not tested, and what it could have shown."""

    what: str
    why: str


def gaps(run: Run) -> list[Gap]:
    """What was not tested, the weightiest first."""
    return [gap for find in _FINDERS for gap in find(run)]


def unmeasured(run: Run) -> list[Gap]:
    """The metrics that were asked for and gave no number, with the reason."""
    found = []
    for name, metric in run.metrics.items():
        if not run.is_measured(name):
            own = (cell.value.reason for (_, _, other), cell in run.cells.items() if other == name)
            reason = next((each for each in own if each), "no reason given")
            found.append(Gap(metric.title or name, reason))
    asked = set(run.metrics)
    left = (each for each in run.summary.left_out if each.metric not in asked)
    return found + [Gap(each.title or each.metric, f"it lacks {', '.join(each.lacks)}") for each in left]


def _grids(run: Run) -> Iterator[Gap]:
    if not run.quantizers:
        yield Gap("No reduced precision", "rounding a model to 8 or 4 bits can bring the text back.")
    elif not DEPLOYED & {run.family(label) for label in run.quantizers}:
        yield Gap(
            "GPTQ, AWQ and GGUF files",
            "the grids here round to the nearest value; these formats round otherwise.",
        )


def _attacks(run: Run) -> Iterator[Gap]:
    if not run.attacks:
        yield Gap(
            "Attacks",
            "nobody tried to train the text back in, to prune the model or to trick it with prompts.",
        )


def _broken(run: Run) -> Iterator[Gap]:
    """What was tested and could not show anything."""
    for column in run.summary.transforms:
        if column.broken is not None:
            yield Gap(f"Anything at {column.label}", column.broken)


def _wanted(run: Run) -> Iterator[Gap]:
    """What the audit itself says it could still be given."""
    for want in run.summary.wanted:
        yield Gap(want.what[0].upper() + want.what[1:], f"{want.adds} ({want.option}).")


def _control(run: Run) -> Iterator[Gap]:
    if run.summary.wanted:  # the audit's own words say it already
        return
    if run.holder(Role.RETRAINED) is None:
        yield Gap(
            "A control",
            "no model trained without these texts was given, so what a guess alone would score is unknown.",
        )
    if run.holder(Role.TARGET) is None:
        yield Gap("The model before", "without it nothing says how much there was to forget.")


def _wording(run: Run) -> Iterator[Gap]:
    if not _measured(run, "phras") and not run.summary.wanted:
        yield Gap("Other wordings", "questions were asked only in the words of the files given.")
    yield Gap("Other languages", "text that is gone in one language may remain in another.")


def _verbatim(run: Run) -> Iterator[Gap]:
    if not _measured(run, "verb", "verm", "extract"):
        yield Gap("Word-for-word recall", "no running text was given to be continued.")
    if not _measured(run, *MEMBERSHIP):
        yield Gap(
            "Membership",
            "whether an outsider can tell that the texts were in the training data was not measured.",
        )


def _sampling(run: Run) -> Iterator[Gap]:
    if not _measured(run, *SAMPLED):
        yield Gap(
            "Repeated asking", "only the likeliest answer counts; asking many times may bring out more."
        )


def _utility(run: Run) -> Iterator[Gap]:
    if run.utility is None and not run.summary.wanted:
        yield Gap("Usefulness", "whether the model is still good for anything else was not measured.")


def _unscored(run: Run) -> Iterator[Gap]:
    without = unmeasured(run)
    if without:
        yield Gap(
            plural(len(without), "measure") + " without a number",
            "; ".join(f"{gap.what}: {gap.why}" for gap in without) + ".",
        )


_FINDERS: tuple[Callable[[Run], Iterator[Gap]], ...] = (
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


def _measured(run: Run, *parts: str) -> bool:
    return any(part in name for name in run.metrics for part in parts if run.is_measured(name))
