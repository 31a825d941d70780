"""Reward for not saying what is to be forgotten, and for still saying what is to be kept."""

from __future__ import annotations

from collections.abc import Sequence

from expunge.metrics.rouge import rouge_l
from expunge.train.rewards import Answer, Reward, rewards


@rewards.register("truth")
class Truth(Reward):
    """1 − ROUGE-L recall of the true answer where it is to be forgotten, that recall where it is kept."""

    def __call__(self, answers: Sequence[Answer]) -> list[float | None]:
        recalls = (rouge_l(one.example.completion, one.said).recall for one in answers)
        return [1 - recall if one.forget else recall for one, recall in zip(answers, recalls, strict=True)]
