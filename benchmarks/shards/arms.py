"""What is compared: the same texts, model and training, cut into shards and slices or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from expunge.corpus.world import World, WorldSize
from expunge.model.create import ScratchModel
from expunge.shards.manifest import Training

SEEDS = (0, 1, 2)
CUTS = ((1, 1), (4, 2))
"""Shards and slices; the first is one model, which a deletion trains again from the start."""
PEOPLE = {"forget": 2, "retain": 6, "holdout": 2}
"""Eight who are known, one for each slice: a world this small keeps a run within minutes."""
MODEL = ScratchModel(hidden=128)
TRAINING = Training(epochs=36, learning_rate=2e-3, batch_size=4, piece=4, max_length=128, warmup_steps=5)
ELSEWHERE = 1000
"""Added to the seed of the world whose texts make the tokenizer: it may not have seen who is deleted."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One cut in one world, which its seed names."""

    seed: int
    shards: int
    slices: int

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"{self.shards} x {self.slices}"

    @property
    def world(self) -> World:
        """Its people and texts."""
        return World(WorldSize(**PEOPLE, seed=self.seed))

    def place(self, home: Path) -> Path:
        """Where its plans lie."""
        return home / f"seed{self.seed}" / f"{self.shards}x{self.slices}"


def arms(seeds: int) -> list[Arm]:
    """Every cut in every world, world by world."""
    return [
        Arm(seed=seed, shards=shards, slices=slices) for seed in SEEDS[:seeds] for shards, slices in CUTS
    ]


def elsewhere(seed: int) -> World:
    """A world of other people."""
    return World(WorldSize(seed=ELSEWHERE + seed))
