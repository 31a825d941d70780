"""Reward by a function of the user's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from expunge.errors import RecipeError
from expunge.train.rewards import Reward, SampledAnswer, rewards


@rewards.register("python")
class Function(Reward):
    """A function of the prompts and the answers.

    A recipe that somebody else wrote can name anything, so nothing is imported before a run has begun.
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
