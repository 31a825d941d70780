"""Sampled answers with their rewards, sorted into equal parts. Written to disk round by round."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter

from expunge.files import write_json
from expunge.train.unfinished import read_unfinished


class Sample(NamedTuple):
    """An answer in tokens: the prompt it continues (by place), the answer, and what it is worth."""

    prompt: int
    answer: tuple[int, ...]
    reward: float


_SAMPLES = TypeAdapter(list[tuple[int, tuple[int, ...], float]])


def quantiles(rewards: Sequence[float], parts: int) -> list[int]:
    """The part of each sample: 0 for the highest rewards. Parts are of one size, the last takes the rest.

    Among equal rewards those that came first go first.
    Source: Lu et al. 2022 (arXiv 2205.13636), Sec. 2 (quantization), released code.
    """
    size = len(rewards) // parts
    order = sorted(range(len(rewards)), key=lambda place: -rewards[place])
    found = [0] * len(rewards)
    for rank, place in enumerate(order):
        found[place] = min(rank // size, parts - 1) if size else min(rank, parts - 1)
    return found


def write_samples(samples: Sequence[Sample], path: Path) -> None:
    """Keep the samples of a round; whole or not at all."""
    write_json(path, [[sample.prompt, list(sample.answer), sample.reward] for sample in samples])


def read_samples(path: Path) -> list[Sample]:
    """The samples of a round."""
    return [Sample(*sample) for sample in read_unfinished(path, _SAMPLES)]
