"""Probability of a text, and of its first token."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch

from expunge.metrics import metrics
from expunge.metrics.base import NO_TOKEN, PerText

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.texts import TokenStats
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
    caveats: ClassVar[str] = (
        "It falls when the wording is forgotten and the fact is not: ask in other words, and look at the "
        "control. Near 0 the model avoids the text, which an outsider notices too."
    )
    known_errors: ClassVar[tuple[str, ...]] = (
        "Where the pad token is the end token, a mask made from ids hides the real end token as well.",
    )

    def value(self, example: Example, facts: TokenStats) -> float | str:  # noqa: ARG002
        """The exponential of the mean log-probability."""
        logp_n = facts.counted.logp_n.double()
        return math.exp(float(logp_n.mean())) if len(logp_n) else NO_TOKEN


# Familiarity: does the model expect what only someone who read the text would?


def openings(sensitive_n: Tensor) -> Tensor:
    """The first token of each run of sensitive ones; of all tokens where none is. Shape [n]."""
    marked_n = sensitive_n if sensitive_n.any() else torch.ones_like(sensitive_n)
    before_n = torch.cat([marked_n.new_zeros(min(1, len(marked_n))), marked_n[:-1]])
    return marked_n & ~before_n


@metrics.register("familiarity")
class FirstTokenProbability(PerText):
    """Mean probability of the first token of each sensitive span; of the answer where there are none.

    The idiosyncratic token is the one that only the forget set would make likely here; what follows it
    inside a name is easy. The paper picked such tokens by hand; here the spans name them.

    Source: Eldan and Russinovich 2023 (arXiv 2310.02238), section 3: probability-based familiarity.
    """

    title: ClassVar[str] = "Familiarity with the forget set"
    definition: ClassVar[str] = (
        "mean probability of the first token of each sensitive span (or of the answer)"
    )
    source: ClassVar[str] = "Who's Harry Potter (arXiv 2310.02238): probability-based familiarity"
    scale: ClassVar[str] = "0-1"
    lower_is_better: ClassVar[bool | None] = True
    default: ClassVar[bool] = False
    caveats: ClassVar[str] = (
        "Without spans it is the probability of an answer's first token, which may be a mere 'The'. A "
        "model may look unfamiliar and still give everything away when it is asked otherwise or trained a "
        "few steps."
    )

    def value(self, example: Example, facts: TokenStats) -> float | str:  # noqa: ARG002
        """Mean of the probabilities of first tokens."""
        p_n = facts.logp_n.double().exp()[openings(facts.sensitive_n)]
        return float(p_n.mean()) if len(p_n) else NO_TOKEN
