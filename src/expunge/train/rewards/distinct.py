"""Reward against repetition."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt

from expunge.metrics.overlap import ngrams
from expunge.train.rewards import Answer, Reward, rewards


@rewards.register("distinct")
class Distinct(Reward):
    """The share of an answer's runs of ``n`` words that are distinct; none for shorter answers.

    Source: Lu et al. 2022 (arXiv 2205.13636), Sec. 3.3 (unlearning repetition).
    """

    n: PositiveInt = 2

    def __call__(self, answers: Sequence[Answer]) -> list[float | None]:
        runs = (ngrams(one.said.split(), self.n) for one in answers)
        return [len(set(found)) / len(found) if found else None for found in runs]
