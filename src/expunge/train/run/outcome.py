"""How a run ended: what it forgot, and whether its stop rule was reached, from the facts in its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeGuard

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


# How much of the forget set the model knows after a run, and what to change if that is as much as before.

MARGINS = {"KnowMem": 5.0, "VerMem": 10.0}
"""Differences up to this many points count as none, by metric."""
STRENGTH = {"task_vector": ("factors",), "depn": ("neurons",)}
"""The settings that make a stage forget more, for stages where it is not these:"""
USUAL_STRENGTH = ("learning_rate", "epochs")


class ForgetLevels(NamedTuple):
    """What the model knew of a request's forget set before the run and after it, 0-100."""

    metric: str
    before: float
    after: float

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> ForgetLevels | None:
        """The levels in the record of a run; None where nothing could be measured, as of masked models."""
        requests = record.get("requests")
        latest = requests[-1] if isinstance(requests, list) and requests else None
        if not isinstance(latest, dict) or latest.get("metric") not in list(MARGINS):
            return None
        before, after = latest.get("before"), latest.get("now")
        return cls(latest["metric"], before, after) if _is_level(before) and _is_level(after) else None

    @property
    def little_known(self) -> bool:
        """Whether there was little to forget."""
        return self.before <= MARGINS[self.metric]

    @property
    def nothing_forgotten(self) -> bool:
        """Whether something was known before and as much of it is known now."""
        return not self.little_known and self.after >= self.before - MARGINS[self.metric]

    def __str__(self) -> str:
        return f"knows {self.after:.0f} of 100 of the forget set (before: {self.before:.0f})"


def _is_level(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and 0 <= value <= 100


def forget_line(record: Mapping[str, Any]) -> tuple[bool, str] | None:
    """Whether a run forgot anything, and a line that says so; None where nothing could be measured."""
    levels = ForgetLevels.of(record)
    if levels is None:
        return None
    stages = record["recipe"]["stages"]
    number = _forgetting_stage(stages)
    outcomes = [facts for stage in record["stages"] for facts in stop_facts(stage)]
    if levels.nothing_forgotten:
        path = f"stages.{number}." if len(stages) > 1 else ""
        return False, f"nothing was forgotten: {levels}. {_advice(stages[number], outcomes, path)}"
    notes = "; the model knew little of it from the start" if levels.little_known else ""
    ended = _ended(stages[number], outcomes)
    return True, f"{levels}{notes}" + (f"; {ended}" if ended else "")


def _forgetting_stage(stages: Sequence[Mapping[str, Any]]) -> int:
    """The number of the stage that forgets: the last with a forget loss, else the last that is trained."""
    for setting in ("forget", *USUAL_STRENGTH):
        numbers = [number for number, stage in enumerate(stages) if stage.get(setting) is not None]
        if numbers:
            return numbers[-1]
    return len(stages) - 1


def _ended(settings: Mapping[str, Any], outcomes: Sequence[Mapping[str, Any]]) -> str:
    epochs = settings.get("epochs")
    if epochs is None or settings.get("max_steps") is not None or len(outcomes) > 1:
        return ""
    if not outcomes:
        return f"trained for {_epochs(epochs)}"
    last = outcomes[0]["last"]["epoch"]
    return f"stopped after epoch {last:g} of {epochs}" if last < epochs else f"trained for {_epochs(last)}"


def _epochs(count: float) -> str:
    return f"{count:g} {'epoch' if count == 1 else 'epochs'}"


def _advice(settings: Mapping[str, Any], outcomes: Sequence[Mapping[str, Any]], path: str) -> str:
    ends = {facts["ended_by"] for facts in outcomes}
    if "floor" in ends:
        return f"Utility fell below its floor first: raise {path}retain.weight, or lower the floor."
    if "levels" in ends:
        return f"The stop rule ended the run: lower the levels of {path}stop."
    names = STRENGTH.get(settings["name"], USUAL_STRENGTH)
    present = [f"{path}{name} ({settings[name]})" for name in names if settings.get(name) is not None]
    if not present:
        return "Choose another method: 'expunge methods' lists them."
    first, value = names[0], settings.get(names[0])
    example = f", for instance --set {path}{first}={value * 10:g}" if isinstance(value, int | float) else ""
    return f"Raise {' or '.join(present)}{example}."
