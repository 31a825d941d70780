"""What is compared: the same texts and model, cut into shards or not at all, from three starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from expunge.corpus.synthetic import World, WorldSize
from expunge.model.create import ScratchModel
from expunge.scope.lora import LowRankAdapters
from expunge.shards.folder import Training

Start = Literal["random", "base", "adapters"]
"""Random weights; those of a base that read of other people; adapters on that base, which all share."""

SEEDS = (0, 1, 2)
PLANS: tuple[tuple[int, int, Start], ...] = (
    (1, 1, "random"),
    (4, 2, "random"),
    (1, 1, "base"),
    (4, 2, "base"),
    (1, 1, "adapters"),
    (4, 2, "adapters"),
)
"""Shards, slices and start; one shard is one model, which a deletion trains again from the start."""
PEOPLE = {"forget": 2, "retain": 6, "holdout": 2}
"""Eight who are known, one for each slice: a world this small keeps a run within minutes."""
MODEL = ScratchModel(hidden=128)
TRAINING = Training(epochs=36, learning_rate=2e-3, batch_size=4, piece=4, max_length=128, warmup_steps=5)
ADAPTERS = TRAINING.model_copy(update={"lora": LowRankAdapters(rank=16), "learning_rate": 5e-3})
BASE = ("epochs=16", "learning_rate=2e-3", "batch_size=8", "max_length=128")
"""How the base is trained, on 24 other people."""
ELSEWHERE = 1000
"""Added to the seed of the world of tokenizer and base: they may not have seen who is deleted."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One cut from one start in one world, which its seed names."""

    seed: int
    shards: int
    slices: int
    start: Start = "random"

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"{self.shards} x {self.slices}"

    @property
    def training(self) -> Training:
        """How each of its shards is trained."""
        return ADAPTERS if self.start == "adapters" else TRAINING

    @property
    def world(self) -> World:
        """Its people and texts."""
        return World(WorldSize(**PEOPLE, seed=self.seed))

    def place(self, home: Path) -> Path:
        """Where its plans lie."""
        suffix = "" if self.start == "random" else f"-{self.start}"
        return home / f"seed{self.seed}" / f"{self.shards}x{self.slices}{suffix}"


def arms(seeds: int) -> list[Arm]:
    """Every plan in every world, world by world."""
    return [
        Arm(seed=seed, shards=shards, slices=slices, start=start)
        for seed in SEEDS[:seeds]
        for shards, slices, start in PLANS
    ]


def elsewhere(seed: int) -> World:
    """A world of other people."""
    return World(WorldSize(seed=ELSEWHERE + seed))
