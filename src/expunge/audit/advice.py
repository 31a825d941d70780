"""What an audit had to leave out for want of something, and what that would add."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from expunge.metrics.base import Metric
    from expunge.metrics.probes import Probes

TARGET, RETRAINED = "target", "retrained"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A metric that was not measured: what it lacks, by the names of ``WANTED``."""

    metric: str
    title: str
    lacks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """Something an audit could be given: how, and what it would add."""

    name: str
    option: str
    what: str
    adds: str


WANTED: Mapping[str, Want] = {
    want.name: want
    for want in (
        Want(
            name=TARGET,
            option="--target MODEL",
            what="the model before unlearning",
            adds="how much there was to forget: without it there is no verdict, and no number is a share",
        ),
        Want(
            name=RETRAINED,
            option="--retrained MODEL",
            what="a control trained without the forget set",
            adds="what one scores who never knew: without it a low number may be luck, and a high one too",
        ),
        Want(
            name="retain",
            option="--retain FILE",
            what="texts that must still be known",
            adds="whether the model is still of use: a broken model forgets everything",
        ),
        Want(
            name="holdout",
            option="--holdout FILE",
            what="texts like the forget set that no model was trained on",
            adds="whether an outsider can tell that the forget set was trained on",
        ),
        Want(
            name="neighbours",
            option="--neighbours FILE",
            what="questions close to the forget set whose answers must stay",
            adds="whether forgetting took more than it was asked to",
        ),
        Want(
            name="second_phrasing",
            option="--second-phrasing FILE",
            what="the forget set's questions in other words",
            adds="whether only the known wording was forgotten",
        ),
    )
}


def lacking(metric: type[Metric] | Metric, probes: Probes, *, has_control: bool) -> tuple[str, ...]:
    """What a metric needs and the audit has not: splits first, then the retrained model."""
    splits = tuple(split for split in metric.needs_splits if not probes.split(split))
    return splits + ((RETRAINED,) if metric.needs_control and not has_control else ())


def wants(left_out: Iterable[LeftOut], *, has_target: bool, has_control: bool) -> list[Want]:
    """What the audit could still be given, most telling first, whether or not a metric asks for it."""
    lacks = {name for each in left_out for name in each.lacks}
    lacks |= {TARGET} if not has_target else set()
    lacks |= {RETRAINED} if not has_control else set()
    known = [want for name, want in WANTED.items() if name in lacks]
    return known + [_unknown(name) for name in sorted(lacks - WANTED.keys())]


def _unknown(split: str) -> Want:
    return Want(
        name=split,
        option=f"--probes FOLDER with {split}.jsonl",
        what=f"the {split} split",
        adds="the metrics that read it",
    )
