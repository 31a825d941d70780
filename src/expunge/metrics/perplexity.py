"""How far a model's perplexities are from the retrained model's: LPD and PDLP.

Shapes: n texts, R resamples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from expunge.metrics import metrics
from expunge.metrics.per_text import NO_TOKEN, PerText

if TYPE_CHECKING:
    from expunge.metrics.base import Floats, Values, Weights
    from expunge.score.facts import TokenFacts
    from expunge.types import Example

SOURCE = "KGA (arXiv 2305.06535)"


class Perplexities(PerText):
    """Base: the perplexity of every forget text, ``exp`` of its mean loss, beside the retrained model's.

    Spans, where there are any, are all that counts.
    """

    source: ClassVar[str] = SOURCE
    needs_control: ClassVar[bool] = True
    is_share: ClassVar[bool] = False
    default: ClassVar[bool] = False

    def value(self, example: Example, facts: TokenFacts) -> float | str:  # noqa: ARG002
        """The perplexity of one text."""
        logp_n = facts.counted.logp_n.double()
        return float((-logp_n.mean()).exp()) if len(logp_n) else NO_TOKEN

    def _mean(self, each_N: Floats, weights: Weights) -> Floats:
        weights_RN = weights[self.split]
        mean_R: Floats = weights_RN @ each_N / weights_RN.sum(axis=1)
        return mean_R

    def _both(self, values: Values, control: Values | None) -> tuple[Floats, Floats]:
        if control is None:
            raise LookupError("perplexities are compared with a retrained model's and were given none")
        return values[self.split], control[self.split]


@metrics.register("lpd")
class PerplexityDistance(Perplexities):
    """Mean over texts of ``|ppl - ppl_retrained| / ppl_retrained``.

    Source: Wang et al. 2023 (KGA, arXiv 2305.06535), its relative form; which name the paper gives to which
    of its two forms is inferred.
    """

    title: ClassVar[str] = "Perplexity distance (LPD)"
    definition: ClassVar[str] = (
        "relative distance of the forget texts' perplexities from the retrained model's"
    )
    scale: ClassVar[str] = "ratio, 0 is best"
    lower_is_better: ClassVar[bool | None] = True
    misleads: ClassVar[str] = (
        "It has no upper end: one text that the model finds absurd outweighs all others. It does not say "
        "which way the distance goes; PDLP does."
    )

    def statistic(self, values: Values, weights: Weights, control: Values | None = None) -> Floats:
        """The mean relative distance of each resample."""
        own_N, retrained_N = self._both(values, control)
        return self._mean(np.abs(own_N - retrained_N) / retrained_N, weights)


@metrics.register("pdlp")
class MorePerplexed(Perplexities):
    """Share of texts that the model finds less likely than the retrained model does; a tie counts half.

    Source: Wang et al. 2023 (KGA, arXiv 2305.06535), whose code counts a tie as none.
    """

    title: ClassVar[str] = "Less likely than retrained (PDLP)"
    definition: ClassVar[str] = "share of forget texts whose perplexity is above the retrained model's"
    scale: ClassVar[str] = "share, 0.5 is best"
    lower_is_better: ClassVar[bool | None] = None
    misleads: ClassVar[str] = (
        "It counts texts, not by how much they differ: 1 may be a hair's breadth or a ruined model. Near 0 "
        "the forget set is still remembered, near 1 avoided."
    )

    def statistic(self, values: Values, weights: Weights, control: Values | None = None) -> Floats:
        """The share of each resample."""
        own_N, retrained_N = self._both(values, control)
        alike_N = np.isclose(own_N, retrained_N, rtol=1e-9, atol=0)
        return self._mean(np.where(alike_N, 0.5, own_N > retrained_N).astype(np.float64), weights)
