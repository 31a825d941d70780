"""Metrics an audit skipped for lack of inputs, and what those inputs would add."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.errors import DataError, RecipeError
from expunge.metrics import metrics as registry

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from expunge.metrics.base import Metric
    from expunge.metrics.probes import Probes

TARGET, RETRAINED = "target", "retrained"


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedMetric:
    """A metric that was not measured: what it lacks, by the names of ``WANTED``."""

    metric: str
    title: str
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingInput:
    """An input the audit lacks: the option that provides it, and what it would add."""

    name: str
    option: str
    what: str
    adds: str


WANTED: Mapping[str, MissingInput] = {
    want.name: want
    for want in (
        MissingInput(
            name=TARGET,
            option="--target MODEL",
            what="the model before unlearning",
            adds="how much there was to forget; without it there is no verdict and no retention",
        ),
        MissingInput(
            name=RETRAINED,
            option="--retrained MODEL",
            what="a control trained without the forget set",
            adds="the score of a model that never saw the data: no score can be judged without it",
        ),
        MissingInput(
            name="retain",
            option="--retain FILE",
            what="texts the model must still know",
            adds="whether the model is still usable: a broken model forgets everything",
        ),
        MissingInput(
            name="holdout",
            option="--holdout FILE",
            what="texts like the forget set that no model was trained on",
            adds="whether an outsider can tell that the forget set was trained on",
        ),
        MissingInput(
            name="neighbours",
            option="--neighbours FILE",
            what="questions close to the forget set whose answers must stay",
            adds="whether unlearning removed more than the forget set",
        ),
        MissingInput(
            name="paraphrase_questions",
            option="--paraphrase FILE",
            what="paraphrases of the forget set's questions",
            adds="whether only the original wording was forgotten",
        ),
    )
}


def missing_splits(metric: type[Metric] | Metric, probes: Probes, *, has_control: bool) -> tuple[str, ...]:
    """The inputs of a metric that the audit lacks: splits first, then the retrained model."""
    splits = tuple(split for split in metric.needs_splits if not probes.split(split))
    return splits + ((RETRAINED,) if metric.needs_control and not has_control else ())


def missing_inputs(
    skipped: Iterable[SkippedMetric], *, has_target: bool, has_control: bool
) -> list[MissingInput]:
    """The inputs the audit lacks, most important first, whether or not a metric needs them."""
    lacks = {name for skipped in skipped for name in skipped.missing}
    lacks |= {TARGET} if not has_target else set()
    lacks |= {RETRAINED} if not has_control else set()
    known = [want for name, want in WANTED.items() if name in lacks]
    return known + [_unknown(name) for name in sorted(lacks - WANTED.keys())]


def _unknown(split: str) -> MissingInput:
    return MissingInput(
        name=split,
        option=f"--probes FOLDER with {split}.jsonl",
        what=f"the {split} split",
        adds="the metrics that read it",
    )


# The metrics an audit measures: those named, or the default ones; and the ones it must skip.

Wanted = str | Mapping[str, Any]

ALL = "all"
ORDER = ("knowmem_forget", "paraphrase_questions", "verbmem", "privleak", "auc", "utility", "neighbours")
"""Metrics of the forget set, then of the retain set; the others follow in alphabetical order."""


class MetricSelection(NamedTuple):
    """The metrics to measure, and those that lack a split or a model."""

    metrics: tuple[Metric, ...]
    skipped: tuple[SkippedMetric, ...]


def select_metrics(
    names: Sequence[Wanted], probes: Probes, *, has_control: bool, also: Sequence[str] = ()
) -> MetricSelection:
    """The metrics that ``names`` select, which may include ``all``; by default, the default metrics.

    A mapping has a ``name`` and settings. ``also`` are added unless they are among them.

    Raises:
        RecipeError: no metric of a name is registered.
        DataError: not one of them can be measured with what the audit was given.
    """
    expanded = _expanded(names)
    known = {name_in(name) for name in expanded}
    added = [name for name in also if name not in expanded and (":" in name or name not in known)]
    wanted = [registry.build(parsed(name)) for name in [*expanded, *added]]
    chosen: list[Metric] = []
    skipped: list[SkippedMetric] = []
    for metric in wanted:
        lacks = missing_splits(metric, probes, has_control=has_control)
        if lacks:
            skipped.append(
                SkippedMetric(metric=registry.name_of(metric), title=metric.title, missing=lacks)
            )
        else:
            chosen.append(metric)
    if not chosen:
        raise _nothing_to_measure(skipped)
    return MetricSelection(tuple(chosen), tuple(skipped))


def parsed(wanted: Wanted) -> Wanted:
    """``name`` or ``name:field=value,field=value`` as a name or as a mapping.

    Raises:
        RecipeError: what follows the colon is not a list of settings.
    """
    if not isinstance(wanted, str) or ":" not in wanted:
        return wanted
    name, _, settings = wanted.partition(":")
    pairs = [pair.partition("=") for pair in settings.split(",")]
    if not all(sign and field for field, sign, _ in pairs):
        raise RecipeError(
            f"--metric {wanted}",
            why=f"{settings!r} is not a list of settings.",
            fix=f"Write {name}:setting=value, separated by commas; see 'expunge metrics {name}'.",
        )
    return {"name": name, **{field: value for field, _, value in pairs}}


def name_in(wanted: Wanted) -> str:
    """The name of a metric without its settings."""
    found = parsed(wanted)
    return found if isinstance(found, str) else str(found["name"])


def in_order(names: Sequence[str]) -> list[str]:
    """Names of metrics as tables show them."""
    return sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def _expanded(names: Sequence[Wanted]) -> list[Wanted]:
    if ALL in names:
        return [*in_order([*registry])]
    return [*names] or [*in_order([name for name in registry if registry[name].default])]


def _nothing_to_measure(skipped: Sequence[SkippedMetric]) -> DataError:
    lacks = dict.fromkeys(name for skipped in skipped for name in skipped.missing)
    names = " and ".join(skipped.metric for skipped in skipped[:3])
    options = (WANTED[name].option if name in WANTED else f"a {name} split" for name in lacks)
    return DataError(
        f"an audit by {names}",
        why=f"it needs inputs that this audit lacks: {', '.join(lacks)}.",
        fix=f"Pass {', '.join(options)}; 'expunge metrics' lists the inputs of each.",
    )
