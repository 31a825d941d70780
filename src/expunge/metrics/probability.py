"""Probability: how likely does the model find the very words?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from expunge.metrics import metrics
from expunge.metrics.per_text import NO_TOKEN, PerText

if TYPE_CHECKING:
    from expunge.score.facts import TokenFacts
    from expunge.types import Example


@metrics.register("probability")
class Probability(PerText):
    """``p(answer | prompt) ** (1 / tokens)``: the geometric mean of the token probabilities.

    The end token of an answer counts as one of its tokens. Spans, where there are any, are all that counts.

    Source: Maini et al. 2024 (TOFU, arXiv 2401.06121), section 2.2.1.
    """

    title: ClassVar[str] = "Probability of the forget set"
    definition: ClassVar[str] = "geometric mean of the probabilities of the text's tokens"
    source: ClassVar[str] = "TOFU (arXiv 2401.06121): Probability"
    scale: ClassVar[str] = "0-1"
    lower_is_better: ClassVar[bool | None] = True
    misleads: ClassVar[str] = (
        "It falls when the wording is forgotten and the fact is not: ask in other words, and look at the "
        "control. Near 0 the model avoids the text, which an outsider notices too."
    )
    known_errors: ClassVar[tuple[str, ...]] = (
        "Where the pad token is the end token, a mask made from ids hides the real end token as well.",
    )

    def value(self, example: Example, facts: TokenFacts) -> float | str:  # noqa: ARG002
        """The exponential of the mean log-probability."""
        logp_n = facts.counted.logp_n.double()
        return math.exp(float(logp_n.mean())) if len(logp_n) else NO_TOKEN
