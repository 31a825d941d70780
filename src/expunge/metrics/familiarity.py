"""Familiarity: does the model expect what only someone who read the text would?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from expunge.metrics import metrics
from expunge.metrics.per_text import NO_TOKEN, PerText

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.score.facts import TokenFacts
    from expunge.types import Example


def openings(sensitive_n: Tensor) -> Tensor:
    """The first token of each run of sensitive ones; of all tokens where none is. Shape [n]."""
    marked_n = sensitive_n if sensitive_n.any() else torch.ones_like(sensitive_n)
    before_n = torch.cat([marked_n.new_zeros(min(1, len(marked_n))), marked_n[:-1]])
    return marked_n & ~before_n


@metrics.register("familiarity")
class Familiarity(PerText):
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
    misleads: ClassVar[str] = (
        "Without spans it is the probability of an answer's first token, which may be a mere 'The'. A "
        "model may look unfamiliar and still give everything away when it is asked otherwise or trained a "
        "few steps."
    )

    def value(self, example: Example, facts: TokenFacts) -> float | str:  # noqa: ARG002
        """Mean of the probabilities of first tokens."""
        p_n = facts.logp_n.double().exp()[openings(facts.sensitive_n)]
        return float(p_n.mean()) if len(p_n) else NO_TOKEN
