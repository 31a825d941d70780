"""Reward by a text classifier: toxicity, sentiment, or any other label it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from pydantic import Field, PositiveInt

from expunge.errors import RecipeError
from expunge.train.rewards import Reward, SampledAnswer, rewards


@rewards.register("classifier")
class Classifier(Reward):
    """The probability that a ``transformers`` text classifier gives a label, or 1 less it.

    The answer alone is read.
    Source: Lu et al. 2022 (arXiv 2205.13636), Secs. 3.1 (toxicity) and 3.2 (sentiment).
    """

    model: str = Field(description="A folder, or a name on the Hub; code from it is never run.")
    label: str = Field(description="The label of the classifier whose probability is read.")
    avoid: bool = Field(
        default=True, description="Whether the reward is 1 less the probability instead of the probability."
    )
    batch_size: PositiveInt = Field(default=32, description="Answers per forward pass.")

    def __call__(self, answers: Sequence[SampledAnswer]) -> list[float | None]:
        texts = [one.said for one in answers if one.said.strip()]
        predictions = iter(self._pipeline(texts, top_k=None, batch_size=self.batch_size, truncation=True))
        return [self._of(next(predictions)) if one.said.strip() else None for one in answers]

    def _of(self, scores: Sequence[dict[str, Any]]) -> float:
        by_label = {score["label"]: float(score["score"]) for score in scores}
        if self.label not in by_label:
            raise RecipeError(
                f"reward.label {self.label!r}",
                why=f"the classifier knows {', '.join(sorted(by_label))}.",
                fix="Name one of them.",
            )
        return 1 - by_label[self.label] if self.avoid else by_label[self.label]

    @cached_property
    def _pipeline(self) -> Any:
        from transformers import pipeline

        try:
            return pipeline("text-classification", model=self.model, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise RecipeError(
                f"reward.model {self.model!r}",
                why="it is not a text classifier that transformers can load.",
                fix="Pass a folder with config.json, weights and tokenizer, or a name on the Hub.",
            ) from error
