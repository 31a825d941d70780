"""What is compared: every recipe that ships, with the settings this small world needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml

from expunge.bench.builtin import Builtin
from expunge.catalogue import recipe_names, recipe_text
from expunge.component import Component
from expunge.corpus.synthetic import WorldSize

SETTINGS = Path(__file__).parent / "settings"
SEEDS = (0, 1, 2)
NOT_METHODS = ("finetune",)

Variant = Literal["plain", "spans", "wrong", "documents"]
"""How the forget set is given: its texts, its facts marked, each with a false one, or without questions."""


class Settings(Component):
    """What is set in a published recipe for a model of two million weights, and why.

    ``{data}`` in a setting is the folder of the world's variants, where ``anchors.json`` lies too.
    """

    set: tuple[str, ...] = ()
    why: str = ""
    data: Variant = "plain"
    left_out: str | None = None


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One recipe in one world, which its seed names."""

    recipe: str
    seed: int
    settings: Settings = field(default_factory=Settings)

    @property
    def needs(self) -> tuple[str, ...]:
        """The data to be given beside the forget set."""
        return tuple(yaml.safe_load(recipe_text(self.recipe)).get("needs", ()))


def settings_of(recipe: str) -> Settings:
    """What ``settings/RECIPE.yaml`` says; the published settings where there is no such file."""
    path = SETTINGS / f"{recipe}.yaml"
    if not path.exists():
        return Settings()
    return Settings.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def arms(seeds: int, only: tuple[str, ...] = ()) -> list[Arm]:
    """Every method in every world, world by world, so that a run cut short is a smaller table."""
    names = [name for name in recipe_names() if name not in NOT_METHODS and (not only or name in only)]
    return [arm for seed in SEEDS[:seeds] for name in names for arm in _arm(name, seed)]


def _arm(recipe: str, seed: int) -> Iterator[Arm]:
    settings = settings_of(recipe)
    if settings.left_out is None:
        yield Arm(recipe=recipe, seed=seed, settings=settings)


def builtin(seed: int, home: Path) -> Builtin:
    """The world of a seed with its target and its control."""
    return Builtin(world=WorldSize(seed=seed), seed=seed, home=home / "builtin")


def place(arm: Arm, home: Path) -> Path:
    """Where an arm's checkpoint lies; those of one world lie side by side."""
    return home / f"seed{arm.seed}" / arm.recipe
