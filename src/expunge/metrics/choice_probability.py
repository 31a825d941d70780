"""Probability of the right answer among the answers offered."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from expunge.metrics import metrics
from expunge.metrics.answers import NO_WRONG, find, mean_logp
from expunge.metrics.base import Metric, absent
from expunge.metrics.per_text import score_of
from expunge.metrics.truth_ratio import FLOOR

if TYPE_CHECKING:
    from expunge.metrics.answers import Found
    from expunge.metrics.base import Measured
    from expunge.metrics.probes import Probes
    from expunge.score.observer import Observer


def choice_probability(found: Found) -> float:
    """``p(right) / (p(right) + the sum of p(wrong))``, each ``p ** (1 / tokens)``."""
    right = math.exp(mean_logp(found.right))
    wrong = math.fsum(math.exp(mean_logp(each)) for each in found.wrong)
    return right / (right + wrong + FLOOR)


class ChoiceProbabilities(Metric):
    """Base: the right answer's ``p ** (1 / tokens)`` over the sum of all answers'.

    Source: Maini et al. 2024 (TOFU, arXiv 2401.06121), section 2.2.1, for what is no fiction.
    """

    source: ClassVar[str] = "TOFU (arXiv 2401.06121): Probability, real authors and world facts"
    scale: ClassVar[str] = "0-1"
    lower_is_better: ClassVar[bool | None] = False
    default: ClassVar[bool] = False
    misleads: ClassVar[str] = (
        "Chance is 1 over the number of answers and not 0. Answers of other lengths are compared token by "
        "token, which favours long ones whose later tokens are easy."
    )
    split: ClassVar[str]

    def measure(self, observed: Observer, probes: Probes) -> Measured:
        """Read every answer to every question of the split once."""
        questions = probes.questions(self.split)
        if not questions:
            return absent(self.split, f"the {self.split} split has no questions")
        return {
            self.split: [
                score_of(each, choice_probability(found) if found.wrong else NO_WRONG)
                for each, found in zip(questions, find(observed, questions), strict=True)
            ]
        }


@metrics.register("real_authors")
class RealAuthors(ChoiceProbabilities):
    """What is known of authors who exist."""

    title: ClassVar[str] = "Knowledge of real authors"
    definition: ClassVar[str] = "probability of the right answer among those offered, on real authors"
    needs_splits: ClassVar[tuple[str, ...]] = ("real_authors",)
    split: ClassVar[str] = "real_authors"


@metrics.register("world_facts")
class WorldFacts(ChoiceProbabilities):
    """What is known of the world."""

    title: ClassVar[str] = "Knowledge of the world"
    definition: ClassVar[str] = "probability of the right answer among those offered, on facts of the world"
    needs_splits: ClassVar[tuple[str, ...]] = ("world_facts",)
    split: ClassVar[str] = "world_facts"
