"""Rewards: what a sampled answer is worth, as a number without a gradient."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import Field, PositiveInt

from expunge.component import Component
from expunge.errors import DataError, RecipeError
from expunge.metrics.memorisation import ngrams
from expunge.metrics.rouge_recall import rouge_l, words
from expunge.registry import Registry
from expunge.types import Example


class SampledAnswer(NamedTuple):
    """A sampled answer, its example, and whether that one is to be forgotten."""

    example: Example
    said: str
    forget: bool


class Reward(Component, ABC):
    """The higher, the better. ``None`` where an answer has no reward; it is then left out.

    One that ``runs_code`` calls Python that a recipe names; the command line wants the user's word for it.
    """

    runs_code: ClassVar[bool] = False

    def check(self) -> None:
        """Refuse what can be known not to work before any model is loaded."""

    @abstractmethod
    def __call__(self, answers: Sequence[SampledAnswer]) -> list[float | None]:
        """One number for each answer."""


rewards: Registry[Reward] = Registry("reward", "expunge.train.rewards")


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


@rewards.register("python")
class Function(Reward):
    """A function of the prompts and the answers.

    A recipe by another author can name anything, so nothing is imported before a run has begun.
    """

    runs_code: ClassVar[bool] = True

    function: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] = Field(
        description=(
            "The function as module:name; it takes prompts and answers, two lists of texts, and "
            "returns a list of numbers, with None where an answer has no reward."
        )
    )

    def check(self) -> None:
        """Refuse a function that cannot be imported."""
        _found(self.function)

    def __call__(self, answers: Sequence[SampledAnswer]) -> list[float | None]:
        prompts, replies = [one.example.prompt for one in answers], [one.said for one in answers]
        values = _found(self.function)(prompts, replies)
        if not isinstance(values, list) or len(values) != len(answers):
            raise RecipeError(
                f"reward {self.function}",
                why=f"it did not return a list of {len(answers)} numbers.",
                fix="Return one number, or None, for each answer.",
            )
        return [None if value is None else float(value) for value in values]


def _found(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise RecipeError(
            f"reward {name}",
            why=f"it cannot be imported: {error}.",
            fix="Write module:name, and run expunge where Python finds the module (PYTHONPATH).",
        ) from error
    return function
