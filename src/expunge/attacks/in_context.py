"""In-context relearning: true answers to other questions are put before each question."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt
from torch import nn

from expunge.attacks import Applied, Attack, ConditionContext, Knowledge, Need, attacks
from expunge.corpus.readers import sample
from expunge.errors import DataError
from expunge.types import Example

SEPARATOR = "\n\n"


@attacks.register("in_context")
class InContext(Attack):
    """Puts solved examples before each question.

    Source: Lynch et al. 2024 (arXiv 2402.16835), in-context relearning.
    """

    title: ClassVar[str] = "solved examples in the prompt"
    source: ClassVar[str] = "arXiv 2402.16835"

    of: Literal["forget", "retain"] = Field(
        default="forget",
        description=(
            "Where the solved examples come from: the other half of the `forget` set, or the `retain` set."
        ),
    )
    count: NonNegativeInt = Field(
        default=5,
        description="The most examples that are put before a question; 0 leaves the question as it is.",
    )

    @property
    def attacker_knowledge(self) -> Knowledge:
        return "half" if self.of == "forget" else "nothing"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({self.of})

    @property
    def model_independent(self) -> bool:
        return True

    @property
    def is_noop(self) -> bool:
        return not self.count

    @contextmanager
    def applied(self, model: nn.Module, context: ConditionContext, result: Any) -> Iterator[Applied]:  # noqa: ARG002
        pool = context.forget if self.of == "forget" else context.retain
        solved = [example for example in pool if not example.is_document and not example.is_chat]
        if not solved and self.count:
            raise DataError(
                "in-context relearning",
                why="there is no question with its answer to put into the prompt.",
                fix="Add questions to the set, or choose another attack.",
            )
        shown = sample(solved, self.count, seed=context.seed, name="in_context")
        before = "".join(example.prompt + example.completion + SEPARATOR for example in shown)

        def rewrite_prompt(example: Example) -> Example:
            return example if example.is_document else replace(example, prompt=before + example.prompt)

        yield Applied(
            model=model, rewrite_prompt=rewrite_prompt, facts={"shown": [each.id for each in shown]}
        )
