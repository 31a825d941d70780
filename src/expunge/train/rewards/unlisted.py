"""Reward against words on a list."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from expunge.errors import DataError
from expunge.metrics.rouge import words
from expunge.train.rewards import Answer, Reward, rewards


@rewards.register("unlisted")
class Unlisted(Reward):
    """The share of an answer's words that are not in ``file``, one word to a line; none without words."""

    file: Path

    def __call__(self, answers: Sequence[Answer]) -> list[float | None]:
        found = (words(one.said) for one in answers)
        return [
            sum(word not in self._listed for word in each) / len(each) if each else None for each in found
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
