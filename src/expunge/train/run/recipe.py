"""Recipes: named methods as data, checked before anything runs."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from expunge.catalogue import recipe_text
from expunge.component import Component
from expunge.errors import RecipeError
from expunge.parsing import MAX_DEPTH, ParseError, load_yaml, whole_number
from expunge.registry import explain, named
from expunge.train.methods import DataNeed, Stage, stages

MAX_STAGES = 32
"""No method has more than a few."""
MAX_TEXT = 200_000
"""Characters of a recipe or a setting: a page is some thousand, and reading YAML takes its time."""
SHOWN = 80
"""Characters of such a text that its refusal repeats."""


class Recipe(Component):
    """A method: where it comes from, what was corrected, what it needs, and the stages it consists of.

    ``needs`` names the data required in addition to the forget set, so that a list of recipes can say it
    without loading a stage; the recipes that ship agree with what their stages declare.
    """

    name: str
    title: str
    paper: str
    corrected: str = ""
    needs: tuple[DataNeed, ...] = ()
    stages: Annotated[tuple[Annotated[Stage, *named(stages)], ...], Field(min_length=1)]

    @field_validator("stages", mode="before")
    @classmethod
    def _not_too_many(cls, raw: Any) -> Any:
        # Before they are built: what is refused for its number should not be read one by one.
        if isinstance(raw, list | tuple) and len(raw) > MAX_STAGES:
            raise ValueError(f"{len(raw)} stages, and a recipe has at most {MAX_STAGES}")
        return raw


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """A recipe by name or path, with ``key=value`` overrides, validated whole.

    Raises:
        RecipeError: unknown recipe, unknown key, or a value out of range.
    """
    raw = _parsed(
        recipe_text(name), f"recipe {name}", fix="Correct it; 'expunge methods npo_klr' shows one."
    )
    if not isinstance(raw, dict):
        raise RecipeError(
            f"recipe {name}", why="it is not a mapping.", fix="See 'expunge methods npo_klr'."
        )
    for override in overrides:
        raw = with_override(raw, override)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise RecipeError(
            f"recipe {name!r}", why=explain(error), fix=f"'expunge methods {name}' shows what it may set."
        ) from error


def with_override(raw: Mapping[str, Any], override: str) -> dict[str, Any]:
    """``raw`` with one ``a.b=value`` applied; paths that name no recipe key are read inside its stage.

    Raises:
        RecipeError: not of the form ``key=value``, or a recipe of several stages without ``stages.N``.
    """
    path, equals, value = override.partition("=")
    if not equals or not path:
        raise RecipeError(
            f"--set {override}",
            why="it is not of the form key=value.",
            fix="Write it as key=value, for instance --set forget.beta=0.2",
        )
    keys = path.split(".")
    if len(keys) > MAX_DEPTH:
        raise RecipeError(
            f"--set {override}",
            why=f"its path has {len(keys)} parts; recipes are not that deep.",
            fix="Shorten the path before the '='.",
        )
    if keys[0] not in Recipe.model_fields:
        if not isinstance(raw.get("stages"), list) or len(raw["stages"]) != 1:
            raise RecipeError(
                f"--set {override}",
                why="the recipe does not have exactly one stage, so the setting is ambiguous.",
                fix=f"Name the stage, for instance --set stages.0.{path}={value}",
            )
        keys = ["stages", "0", *keys]
    changed = copy.deepcopy(dict(raw))
    holder: Any = changed
    for key in keys[:-1]:
        holder = _inside(holder, key, override)
    last = keys[-1]
    place: Any = _index(holder, last) if isinstance(holder, list) else last
    if place is None:
        raise _no_settings(last, override)
    holder[place] = _parsed(value, f"--set {override}", fix=f"Quote the value: --set '{path}=\"...\"'")
    return changed


def _parsed(text: str, where: str, *, fix: str) -> Any:
    if len(text) > MAX_TEXT:
        raise RecipeError(
            f"{where[:SHOWN]}...",
            why=f"it has {len(text):,} characters, and a recipe has {MAX_TEXT:,} at most.",
            fix="'expunge methods npo_klr' shows a recipe.",
        )
    try:
        return load_yaml(text)
    except ParseError as error:
        raise RecipeError(where, why=f"it is not valid YAML: {error}.", fix=fix) from error


def _inside(holder: dict[str, Any] | list[Any], key: str, override: str) -> dict[str, Any] | list[Any]:
    """The settings under a key, which a later part of the path names one of."""
    inside: Any = None
    if isinstance(holder, list):
        place = _index(holder, key)
        inside = None if place is None else holder[place]
    else:
        if holder.get(key) is None:  # absent, or written out as nothing
            holder[key] = {}
        inside = holder[key]
    if not isinstance(inside, dict | list):
        raise _no_settings(key, override)
    return inside


def _index(holder: list[Any], key: str) -> int | None:
    place = whole_number(key)
    return place if place is not None and place < len(holder) else None


def _no_settings(key: str, override: str) -> RecipeError:
    return RecipeError(
        f"--set {override}",
        why=f"{key!r} has no settings inside it.",
        fix="Shorten the path before the '='.",
    )
