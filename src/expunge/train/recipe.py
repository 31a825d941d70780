"""Recipes: named methods as data, checked before anything runs."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import yaml
from pydantic import ValidationError

from expunge.catalogue import recipe_text
from expunge.component import Component
from expunge.errors import RecipeError
from expunge.registry import explain
from expunge.train.named import named
from expunge.train.stages import Stage, stages


class Recipe(Component):
    """A method: where it comes from, what was corrected, and the stages it consists of."""

    name: str
    title: str
    paper: str
    corrected: str = ""
    stages: tuple[Annotated[Stage, *named(stages)], ...]


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """A recipe by name or path, with ``key=value`` overrides, validated whole.

    Raises:
        RecipeError: unknown recipe, unknown key, or a value out of range.
    """
    raw = yaml.safe_load(recipe_text(name))
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
            fix="For instance --set forget.beta=0.2",
        )
    keys = path.split(".")
    if keys[0] not in Recipe.model_fields:
        if len(raw.get("stages", ())) != 1:
            raise RecipeError(
                f"--set {override}",
                why="the recipe has several stages, so the setting could belong to any of them.",
                fix=f"Say which, for instance --set stages.0.{path}={value}",
            )
        keys = ["stages", "0", *keys]
    changed = copy.deepcopy(dict(raw))
    holder: Any = changed
    for key in keys[:-1]:
        holder = _inside(holder, key, override)
    holder[int(keys[-1]) if isinstance(holder, list) else keys[-1]] = yaml.safe_load(value)
    return changed


def _inside(holder: Any, key: str, override: str) -> Any:
    if isinstance(holder, list):
        if key.isdigit() and int(key) < len(holder):
            return holder[int(key)]
    elif isinstance(holder, dict) and isinstance(holder.setdefault(key, {}), dict | list):
        return holder[key]
    raise RecipeError(
        f"--set {override}",
        why=f"{key!r} has no settings inside it.",
        fix="Shorten the path before the '='.",
    )
