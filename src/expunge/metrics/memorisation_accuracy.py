"""Exact memorisation: how many tokens of a text would the model have put there itself?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PositiveInt

from expunge.metrics import metrics
from expunge.metrics.base import NO_TOKEN, MetricRole, PerText

if TYPE_CHECKING:
    from expunge.inference.texts import TokenStats
    from expunge.types import Example


@metrics.register("exact_memorisation")
class ExactMemorisation(PerText):
    """Share of the tokens that are the likeliest one after the true text before them.

    An end token is no text and does not count.

    Source: Tirumala et al. 2022 (arXiv 2205.10770), equation 1; open-unlearning's exact memorization.
    """

    title: ClassVar[str] = "Exact memorisation of the forget set"
    role: ClassVar[MetricRole] = MetricRole.MEMORIZATION
    definition: ClassVar[str] = (
        "share of tokens that are the model's first choice, given the true text before"
    )
    source: ClassVar[str] = "Tirumala et al. 2022 (arXiv 2205.10770); open-unlearning"
    scale: ClassVar[str] = "0-1"
    lower_is_better: ClassVar[bool | None] = True
    caveats: ClassVar[str] = (
        "Half of ordinary English is guessed right by a model that never saw the text: only the distance "
        "to the retrained control is informative."
    )
    known_errors: ClassVar[tuple[str, ...]] = (
        (
            "open-unlearning drops the last token of every text as if it were an end token, where there is "
            "none."
        ),
    )

    def value(self, example: Example, facts: TokenStats) -> float | str:  # noqa: ARG002
        """Mean of right and wrong."""
        right_n = facts.text.right_n
        return float(right_n.double().mean()) if len(right_n) else NO_TOKEN


# Memorisation accuracy (MA): of the whole text, of its sensitive spans, and of the text around them.

NO_SPANS = "the text has no sensitive spans"


@metrics.register("memorisation_accuracy")
class MemorisationAccuracy(PerText):
    """``MA = 1/(T-1) sum_t 1[argmax p(. | x_<t) = x_t]`` over the first tokens of each text.

    A document's first token is not asked for: no text precedes it. An answer's is, after its prompt.

    Source: Jang et al. 2023 (arXiv 2210.01504), Eq. 4.
    """

    title: ClassVar[str] = "Memorisation accuracy (MA)"
    role: ClassVar[MetricRole] = MetricRole.MEMORIZATION
    definition: ClassVar[str] = "share of the first 200 tokens that are the model's first choice"
    source: ClassVar[str] = "Jang et al. 2023 (arXiv 2210.01504): MA"
    scale: ClassVar[str] = "0-1"
    lower_is_better: ClassVar[bool | None] = True
    caveats: ClassVar[str] = (
        "Common words are guessed without having been learned. The paper's threshold is the value on texts "
        "the model never saw: compare with the control, not with 0."
    )
    known_errors: ClassVar[tuple[str, ...]] = (
        "The released code counts padding as tokens to be guessed, and asks with one generation per token.",
    )

    tokens: PositiveInt = Field(
        default=200, description="Tokens of each text that are looked at, from its beginning."
    )

    def value(self, example: Example, facts: TokenStats) -> float | str:
        """Mean of right and wrong."""
        right_n = facts.text.right_n[: self.tokens][int(example.is_document) :]
        return float(right_n.double().mean()) if len(right_n) else "the text has no second token"


@metrics.register("sensitive_accuracy")
class SensitiveAccuracy(PerText):
    """S-MA: memorisation accuracy over the tokens that touch a sensitive span.

    Source: Wang et al. 2025 (SeUL, arXiv 2402.05813), in this package's reading: the paper gives no formula
    that could be had.
    """

    title: ClassVar[str] = "Memorisation accuracy of sensitive spans (S-MA)"
    role: ClassVar[MetricRole] = MetricRole.MEMORIZATION
    definition: ClassVar[str] = "share of the tokens in sensitive spans that are the model's first choice"
    source: ClassVar[str] = "SeUL (arXiv 2402.05813): S-MA, our reading"
    scale: ClassVar[str] = "0-1"
    lower_is_better: ClassVar[bool | None] = True
    default: ClassVar[bool] = False
    caveats: ClassVar[str] = (
        "The later tokens of a name follow from its first: short spans say more than their length. "
        "Compare it with the accuracy outside the spans."
    )

    def value(self, example: Example, facts: TokenStats) -> float | str:  # noqa: ARG002
        """Mean of right and wrong inside spans."""
        right_n = facts.right_n[facts.sensitive_n]
        return float(right_n.double().mean()) if len(right_n) else NO_SPANS


@metrics.register("accuracy_beside_spans")
class AccuracyBesideSpans(PerText):
    """Memorisation accuracy over the tokens that touch no sensitive span: what should stay.

    Source: the complement of S-MA.
    """

    title: ClassVar[str] = "Memorisation accuracy outside sensitive spans"
    definition: ClassVar[str] = (
        "share of the tokens outside sensitive spans that are the model's first choice"
    )
    source: ClassVar[str] = "SeUL (arXiv 2402.05813): complement of S-MA"
    scale: ClassVar[str] = "0-1"
    lower_is_better: ClassVar[bool | None] = False
    default: ClassVar[bool] = False
    caveats: ClassVar[str] = (
        "High is good only where the text around the spans was to be kept. A document forgotten as a whole "
        "should be low here too."
    )

    def value(self, example: Example, facts: TokenStats) -> float | str:  # noqa: ARG002
        """Mean of right and wrong outside spans."""
        if not facts.sensitive_n.any():
            return NO_SPANS
        right_n = facts.text.right_n[~facts.text.sensitive_n]
        return float(right_n.double().mean()) if len(right_n) else "all of the text is sensitive"
