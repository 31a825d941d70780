"""Exact memorisation: how many tokens of a text would the model have put there itself?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from expunge.metrics import metrics
from expunge.metrics.per_text import NO_TOKEN, PerText

if TYPE_CHECKING:
    from expunge.score.facts import TokenFacts
    from expunge.types import Example


@metrics.register("exact_memorisation")
class ExactMemorisation(PerText):
    """Share of the tokens that are the likeliest one after the true text before them.

    An end token is no text and does not count.

    Source: Tirumala et al. 2022 (arXiv 2205.10770), equation 1; open-unlearning's exact memorization.
    """

    title: ClassVar[str] = "Exact memorisation of the forget set"
    definition: ClassVar[str] = (
        "share of tokens that are the model's first choice, given the true text before"
    )
    source: ClassVar[str] = "Tirumala et al. 2022 (arXiv 2205.10770); open-unlearning"
    scale: ClassVar[str] = "0-1"
    lower_is_better: ClassVar[bool | None] = True
    misleads: ClassVar[str] = (
        "Half of ordinary English is guessed right by a model that never saw the text: only the distance "
        "to the retrained control says something."
    )
    known_errors: ClassVar[tuple[str, ...]] = (
        (
            "open-unlearning drops the last token of every text as if it were an end token, where there is "
            "none."
        ),
    )

    def value(self, example: Example, facts: TokenFacts) -> float | str:  # noqa: ARG002
        """Mean of right and wrong."""
        right_n = facts.text.right_n
        return float(right_n.double().mean()) if len(right_n) else NO_TOKEN
