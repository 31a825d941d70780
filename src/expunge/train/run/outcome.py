"""How a stop rule ended: reached or not, by which numbers, in a form that records and people can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

EndedBy = Literal["levels", "floor", "epochs"]
"""Every level was met, utility fell below its floor, or the epochs ran out before either."""


@dataclass(frozen=True, kw_only=True)
class StopOutcome:
    """The criteria of a stop rule and the last measurements.

    ``levels`` are the most that each number may be, ``floor`` the least utility (None: not watched).
    ``last`` holds the newest measurement by the same names and the ``epoch`` after which it was made.
    """

    ended_by: EndedBy
    last: Mapping[str, float]
    levels: Mapping[str, float] = field(default_factory=dict)
    floor: float | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """The same for a record."""
        return {
            "reached": self.ended_by != "epochs",
            "ended_by": self.ended_by,
            "levels": dict(self.levels),
            "floor": self.floor,
            "last": dict(self.last),
        }


def stop_facts(stage: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The facts of every stop rule of one stage: one, one for each part it took in turn, or none."""
    parts = stage.get("chunks") or [stage]
    return [part["stop"] for part in parts if part.get("stop")]


def all_reached(record: Mapping[str, Any]) -> bool | None:
    """Whether every stop rule of a run was reached; None where it had none."""
    found = [facts["reached"] for stage in record["stages"] for facts in stop_facts(stage)]
    return all(found) if found else None


def stop_lines(record: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    """For each stage with a stop rule: whether it was reached (in every part), and a line that says so."""
    several = len(record["stages"]) > 1
    for number, stage in enumerate(record["stages"], start=1):
        outcomes = stop_facts(stage)
        if outcomes:
            where = f"stage {number}: " if several else ""
            yield all(each["reached"] for each in outcomes), where + _line(outcomes)


def _line(outcomes: Sequence[Mapping[str, Any]]) -> str:
    missed = [place for place, facts in enumerate(outcomes) if not facts["reached"]]
    if len(outcomes) == 1:
        return _of_one(outcomes[0])
    if not missed:
        return f"stop rule reached in all {len(outcomes)} parts"
    first = missed[0]
    return (
        f"stop rule not reached in {len(missed)} of {len(outcomes)} parts; "
        f"of these the first is part {first + 1}: {_numbers(outcomes[first])}"
    )


def _of_one(facts: Mapping[str, Any]) -> str:
    epoch = facts["last"]["epoch"]
    numbers = _numbers(facts)
    if facts["ended_by"] == "epochs":
        return f"stop rule not reached in {epoch:g} {'epoch' if epoch == 1 else 'epochs'}: {numbers}"
    when = f"after epoch {epoch:g}" if epoch else "before the first step"
    if facts["ended_by"] == "floor":
        return f"stop rule reached {when}: {numbers}; the last checkpoint before it is kept"
    return f"stop rule reached {when}: {numbers}"


def _numbers(facts: Mapping[str, Any]) -> str:
    last = facts["last"]
    values = [f"{name} {last[name]:.4g} (at most {most:.4g})" for name, most in facts["levels"].items()]
    if facts["floor"] is not None:
        values.append(f"utility {last['utility']:.4g} (at least {facts['floor']:.4g})")
    asked = facts.get("asked")
    return ", ".join(values) + (f"; {_how_asked(asked)}" if asked else "")


def _how_asked(asked: Mapping[str, Any]) -> str:
    solved = f"after {asked['solved']} solved questions" if asked["solved"] else "without solved questions"
    after = f", {solved}" if asked["metric"] == "KnowMem" else ""
    return f"{asked['metric']} of {asked['items']} of {asked['of']} examples{after}"
