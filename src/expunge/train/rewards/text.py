"""Reward for not generating the forget set, and for still answering the retain set."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from pydantic import Field, PositiveInt

from expunge.errors import DataError
from expunge.metrics.extraction_likelihood import ngrams
from expunge.metrics.rouge import rouge_l, words
from expunge.train.rewards import Reward, SampledAnswer, rewards


@rewards.register("truth")
class TruthReward(Reward):
    """1 − ROUGE-L recall of the true answer where it is to be forgotten, that recall where it is kept."""

    def __call__(self, answers: Sequence[SampledAnswer]) -> list[float | None]:
        recalls = (rouge_l(one.example.completion, one.said).recall for one in answers)
        return [1 - recall if one.forget else recall for one, recall in zip(answers, recalls, strict=True)]


# Reward against repetition.


@rewards.register("distinct")
class Distinct(Reward):
    """The share of an answer's runs of words that are distinct.

    Source: Lu et al. 2022 (arXiv 2205.13636), Sec. 3.3 (unlearning repetition).
    """

    n: PositiveInt = Field(
        default=2, description="Length of the runs, in words; shorter answers have no reward."
    )

    def __call__(self, answers: Sequence[SampledAnswer]) -> list[float | None]:
        runs = (ngrams(one.said.split(), self.n) for one in answers)
        return [len(set(grams)) / len(grams) if grams else None for grams in runs]


# Reward against words on a list.


@rewards.register("unlisted")
class Unlisted(Reward):
    """The share of an answer's words that are not in a file; none without words."""

    file: Path = Field(description="A file of words to avoid, one per line.")

    def __call__(self, answers: Sequence[SampledAnswer]) -> list[float | None]:
        words_of_replies = (words(one.said) for one in answers)
        return [
            sum(word not in self._listed for word in reply_words) / len(reply_words)
            if reply_words
            else None
            for reply_words in words_of_replies
        ]

    @cached_property
    def _listed(self) -> frozenset[str]:
        try:
            text = self.file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"the word list {self.file}", why=f"it cannot be read: {error}.", fix="Check reward.file."
            ) from error
        return frozenset(words(text))
