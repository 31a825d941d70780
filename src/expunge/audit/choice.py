"""Which metrics an audit measures: those named, or the default ones; and which it must leave out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.audit.advice import WANTED, LeftOut, lacking
from expunge.errors import DataError, RecipeError
from expunge.metrics import metrics as registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expunge.metrics.base import Metric
    from expunge.metrics.probes import Probes

Wanted = str | Mapping[str, Any]

ALL = "all"
ORDER = ("knowmem_forget", "second_phrasing", "verbmem", "privleak", "auc", "utility", "neighbours")
"""What was to go first, then what was to stay; others follow by their names."""


class Choice(NamedTuple):
    """The metrics to measure, and those that lack a split or a model."""

    metrics: tuple[Metric, ...]
    left_out: tuple[LeftOut, ...]


def choose(names: Sequence[Wanted], probes: Probes, *, has_control: bool) -> Choice:
    """The metrics ``names`` stand for, ``all`` among them; without any, the default ones.

    A mapping has a ``name`` and settings.

    Raises:
        RecipeError: no metric of a name is registered.
        DataError: not one of them can be measured with what the audit was given.
    """
    wanted = [registry.build(parsed(name)) for name in _expanded(names)]
    chosen: list[Metric] = []
    left_out: list[LeftOut] = []
    for metric in wanted:
        lacks = lacking(metric, probes, has_control=has_control)
        if lacks:
            left_out.append(LeftOut(metric=registry.name_of(metric), title=metric.title, lacks=lacks))
        else:
            chosen.append(metric)
    if not chosen:
        raise _nothing_to_measure(left_out)
    return Choice(tuple(chosen), tuple(left_out))


def parsed(wanted: Wanted) -> Wanted:
    """``name`` or ``name:field=value,field=value`` as a name or as a mapping.

    Raises:
        RecipeError: what follows the colon is no list of settings.
    """
    if not isinstance(wanted, str) or ":" not in wanted:
        return wanted
    name, _, settings = wanted.partition(":")
    pairs = [pair.partition("=") for pair in settings.split(",")]
    if not all(sign and field for field, sign, _ in pairs):
        raise RecipeError(
            f"--metric {wanted}",
            why=f"{settings!r} is no list of settings.",
            fix=f"Write {name}:setting=value, more after commas; 'expunge metrics {name}' names them.",
        )
    return {"name": name, **{field: value for field, _, value in pairs}}


def in_order(names: Sequence[str]) -> list[str]:
    """Names of metrics as tables show them."""
    return sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def _expanded(names: Sequence[Wanted]) -> list[Wanted]:
    if ALL in names:
        return [*in_order([*registry])]
    return [*names] or [*in_order([name for name in registry if registry[name].default])]


def _nothing_to_measure(left_out: Sequence[LeftOut]) -> DataError:
    lacks = dict.fromkeys(name for each in left_out for name in each.lacks)
    names = " and ".join(each.metric for each in left_out[:3])
    options = (WANTED[name].option if name in WANTED else f"a {name} split" for name in lacks)
    return DataError(
        f"an audit by {names}",
        why=f"it needs what this audit was not given: {', '.join(lacks)}.",
        fix=f"Pass {', '.join(options)}; 'expunge metrics' says what each needs.",
    )
