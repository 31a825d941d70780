"""Extraction strength: how much of a text must be shown before the model says the rest?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from expunge.metrics import metrics
from expunge.metrics.per_text import NO_TOKEN, PerText

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.score.facts import TokenFacts
    from expunge.types import Example


def strength(right_n: Tensor) -> float:
    """``1 - k / n``: the model is right at all n tokens from the k-th on, and k is the smallest such.

    0 when the last token is wrong: there is no rest that the model says.
    """
    wrong = (~right_n).nonzero()
    shown = int(wrong[-1]) + 1 if len(wrong) else 0
    return 1 - shown / len(right_n)


@metrics.register("extraction_strength")
class ExtractionStrength(PerText):
    """One minus the smallest share of the text after which the model would say all of the rest.

    An end token is no text and does not count.

    Source: Carlini et al. 2021 (arXiv 2012.07805); Wang et al. 2025 (arXiv 2502.19301), as a metric of
    unlearning.
    """

    title: ClassVar[str] = "Extraction strength of the forget set"
    definition: ClassVar[str] = (
        "share of the text that the model says by itself once it has seen what is before"
    )
    source: ClassVar[str] = "Carlini et al. 2021 (arXiv 2012.07805); Wang et al. 2025 (arXiv 2502.19301)"
    scale: ClassVar[str] = "0-1"
    lower_is_better: ClassVar[bool | None] = True
    misleads: ClassVar[str] = (
        "One wrong token near the end makes it 0 however much of the text is known. "
        "It is 0 for most texts of any model, so the mean rests on few items."
    )
    known_errors: ClassVar[tuple[str, ...]] = (
        "open-unlearning gives 1/n instead of 0 to a text of n tokens whose last one is wrong.",
    )

    def value(self, example: Example, facts: TokenFacts) -> float | str:  # noqa: ARG002
        """The strength over the text's own tokens."""
        right_n = facts.text.right_n
        return strength(right_n) if len(right_n) else NO_TOKEN
