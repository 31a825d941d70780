"""The recipes that ship with the package, as text: listing them needs no model library."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from expunge.errors import RecipeError, did_you_mean

AUTHORS = re.compile(r"[A-Z][\w-]+(?: et al\.| and [A-Z][\w-]+)? 20\d\d")
WITH_SETTINGS = re.compile(r"(?P<recipe>.+?):(?P<settings>[\w.]+=.+)")
ARXIV = re.compile(r"arXiv \d{4}\.\d{5}")


def recipe_names() -> list[str]:
    """The names of all recipes that ship with the package."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in resources.files("expunge.recipes").iterdir()
        if entry.name.endswith(".yaml")
    )


def recipe_and_settings(text: str) -> tuple[str, tuple[str, ...]]:
    """``npo_gdr:epochs=3,forget.beta=0.2`` as the recipe's name or file and the settings changed in it."""
    match = WITH_SETTINGS.fullmatch(text)
    return (text, ()) if match is None else (match["recipe"], tuple(match["settings"].split(",")))


def recipe_text(name: str) -> str:
    """The YAML of a recipe, by its name or by the path of a file.

    Raises:
        RecipeError: there is no such recipe.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise RecipeError(f"recipe {name}", why="there is no such file.", fix="Check the path.")
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"recipe {name}", why=f"it cannot be read: {error}.", fix="Save it as UTF-8 text."
            ) from error
    known = recipe_names()
    if name not in known:
        raise RecipeError(
            f"recipe {name!r}",
            why="no recipe of that name ships with expunge.",
            fix=f"{did_you_mean(name, known)} 'expunge methods' lists them all.",
        )
    return resources.files("expunge.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def made_of(recipe: Mapping[str, Any]) -> str:
    """What each stage of a parsed recipe takes from each axis: ``npo × gdr × lora, then floor``."""
    return ", then ".join(_made_of(stage) for stage in recipe["stages"])


def cited(recipe: Mapping[str, Any]) -> str:
    """The first source of a parsed recipe in a few words: ``Jang et al. 2023, arXiv 2210.01504``."""
    for source in recipe["paper"].split(";"):
        matches = [match.group() for pattern in (AUTHORS, ARXIV) if (match := pattern.search(source))]
        if matches:
            return ", ".join(matches)
    return str(recipe["paper"])


def _made_of(stage: Mapping[str, Any]) -> str:
    chosen = [stage.get(axis) for axis in ("forget", "retain", "scope", "adversary")]
    names = [part["name"] if isinstance(part, Mapping) else str(part) for part in chosen if part]
    return " × ".join(names) or str(stage["name"])
