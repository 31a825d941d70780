"""From words, as they are typed, to the jobs of this room: checked before anything is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import ValidationError

from expunge.component import Component
from expunge.errors import RecipeError, did_you_mean
from expunge.model.create import ScratchModel
from expunge.parsing import MAX_DEPTH, ParseError, load_yaml
from expunge.registry import explain
from expunge.shards.building import Build
from expunge.shards.ensemble import By
from expunge.shards.executors import ExecutorName, executor_for
from expunge.shards.folder import PlanFolder
from expunge.shards.making import PlanJob
from expunge.shards.manifest import Training
from expunge.shards.plan import Cut
from expunge.shards.predicting import Prediction

C = TypeVar("C", bound=Component)


def plan_job(
    *,
    data: tuple[str, ...],
    model: str,
    output: Path,
    cut: Mapping[str, Any],
    sizes: Sequence[str] | None,
    settings: Sequence[str],
    fields: Mapping[str, str] | None,
) -> PlanJob:
    """A plan to make.

    Raises:
        RecipeError: a setting is unknown or out of range.
    """
    return PlanJob(
        data=data,
        model=model,
        output=output,
        cut=_checked(Cut, cut, "the plan"),
        training=_checked(Training, nested(settings, "--set"), "--set"),
        scratch=_checked(ScratchModel, nested(sizes, "--size"), "--size") if sizes else None,
        fields=fields,
    )


def build_of(folder: Path, *, executor: str, workers: int, address: str | None = None) -> Build:
    """A plan to bring up to date, with bars where somebody watches."""
    name = cast("ExecutorName", _one_of(executor, get_args(ExecutorName), "--executor"))
    chosen = executor_for(name, workers=workers, address=address)
    return Build(plan=PlanFolder(folder), executor=chosen, quiet=False)


def prediction(
    folder: Path,
    *,
    data: str,
    output: Path,
    by: str,
    max_new_tokens: int,
    fields: Mapping[str, str] | None,
) -> Prediction:
    """Questions to ask."""
    return Prediction(
        plan=PlanFolder(folder),
        data=data,
        output=output,
        by=cast("By", _one_of(by, get_args(By), "--by")),
        max_new_tokens=max_new_tokens,
        fields=fields,
    )


def nested(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """``["a.b=1"]`` as ``{"a": {"b": 1}}``, values read as YAML.

    Raises:
        RecipeError: an entry is not ``key=value``.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        path, equals, value = pair.partition("=")
        if not equals or not path:
            raise RecipeError(
                f"{option} {pair}", why="it is not of the form key=value.", fix=f"As in {option} epochs=20"
            )
        *outer, last = path.split(".")
        holder = found
        for key in outer[:MAX_DEPTH]:
            holder = holder.setdefault(key, {})
            if not isinstance(holder, dict):
                raise RecipeError(
                    f"{option} {pair}",
                    why=f"{key!r} is already given a value, so it has no settings inside it.",
                    fix="Shorten the path before the '=', or leave out the other one.",
                )
        try:
            holder[last] = load_yaml(value)
        except ParseError as error:
            raise RecipeError(
                f"{option} {pair}",
                why=f"its value is not YAML that can be read: {error}.",
                fix=f"Put the value in quotes of its own: {option} '{path}=\"...\"'",
            ) from error
    return found


def _checked(component: type[C], settings: Mapping[str, Any], where: str) -> C:
    try:
        return component.model_validate(settings)
    except ValidationError as error:
        raise RecipeError(
            where, why=explain(error), fix=f"It takes: {', '.join(component.model_fields)}."
        ) from error


def _one_of(name: str, known: Sequence[str], option: str) -> str:
    if name not in known:
        raise RecipeError(f"{option} {name}", why="there is no such choice.", fix=did_you_mean(name, known))
    return name
