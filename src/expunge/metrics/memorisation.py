"""Memorisation of texts: extraction likelihood (EL) and memorisation accuracy (MA), whole or of spans."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pydantic import Field, PositiveInt

from expunge.inference.generation.branch import BranchPoint
from expunge.metrics import metrics
from expunge.metrics.base import NO_TOKEN, Metric, MetricRole, PerText, not_applicable, score_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from expunge.inference.observer import Observer
    from expunge.inference.texts import TokenStats
    from expunge.metrics.base import Measured
    from expunge.metrics.probes import Probes
    from expunge.types import Example


def ngrams(tokens: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    """The runs of ``n`` tokens, first to last, as often as they occur."""
    return list(zip(*(islice(tokens, start, None) for start in range(n)), strict=False))


def overlap(generated: Sequence[Hashable], true: Sequence[Hashable], n: int, *, length: int) -> float:
    """Share of the n-grams of ``length`` tokens that were said and occur in the truth.

    Each n-gram counts as often as it was said. What was said may be shorter than the ``length`` it was
    given room for: what was not said occurs nowhere.
    """
    known = set(ngrams(true, n))
    return sum(ngram in known for ngram in ngrams(generated, n)) / (length - n + 1)


# Extraction likelihood (EL): from anywhere inside a text, how much of the rest does the model say?


class TextWalk(NamedTuple):
    """The tokens of a text, and the range of positions from which the model continues it.

    ``wrong`` are the places where the model's first choice is another token, given the true text before.
    """

    tokens: list[int]
    first: int
    last: int
    wrong: list[int]

    @classmethod
    def of(cls, example: Example, facts: TokenStats, *, tokens: int, n: int) -> TextWalk:
        """The walk through the first ``tokens`` tokens; a document must first show one token of its own."""
        text = facts.text.first(tokens)
        first, last = int(example.is_document), len(text) - n
        wrong = [at for at in (~text.right_n).nonzero()[:, 0].tolist() if at >= first]
        return cls(text.token_n.tolist(), first, last, wrong)

    @property
    def forks(self) -> list[int]:
        """Where the model leaves the text for the first time after some beginning."""
        before = [self.first - 1, *self.wrong]
        return [at for at, last_one in zip(self.wrong, before, strict=False) if last_one < self.last]

    def likelihood(self, completions: Mapping[int, Sequence[int]], n: int) -> float:
        """Mean over beginnings of the overlap between the model's continuation and the true rest.

        ``said`` is the model's continuation at each fork.
        """
        wrong = iter(self.wrong)
        at = next(wrong, None)
        total = 0.0
        for begin in range(self.first, self.last + 1):
            while at is not None and at < begin:
                at = next(wrong, None)
            true = self.tokens[begin:]
            # Up to the fork the model follows the text, so all earlier beginnings share its continuation.
            tokens = true if at is None else [*self.tokens[begin:at], *completions[at]]
            total += overlap(tokens, true, n, length=len(true))
        return total / (self.last + 1 - self.first)


@metrics.register("extraction_likelihood")
class ExtractionLikelihood(Metric):
    """``EL_n``: mean over beginnings of a text of the n-gram overlap of the greedy with the true rest.

    Exact, with one generation for each token the model gets wrong instead of one for each token: from any
    beginning, greedy decoding follows the text up to the first wrong token, and its continuation
    does not depend on where it began. A rest that the model ends early counts as many n-grams as the true
    one has.

    Source: Jang et al. 2023 (arXiv 2210.01504), Eq. 2-3; n = 10, 200 tokens.
    """

    title: ClassVar[str] = "Extraction likelihood (EL)"
    role: ClassVar[MetricRole] = MetricRole.EXTRACTION
    definition: ClassVar[str] = (
        "share of the 10-grams of the rest of a text that the model generates, over all its beginnings. "
        "It needs many generations per text, so it is measured only on request"
    )
    source: ClassVar[str] = "Jang et al. 2023 (arXiv 2210.01504): EL"
    scale: ClassVar[str] = "0-1"
    lower_is_better: ClassVar[bool | None] = True
    default: ClassVar[bool] = False
    caveats: ClassVar[str] = (
        "Texts that repeat themselves have high values in any model. The paper's threshold is the value on "
        "texts the model never saw: compare with the control, not with 0."
    )
    known_errors: ClassVar[tuple[str, ...]] = (
        "The released code looks at the first batch of texts only, and counts padding as text.",
    )

    n: PositiveInt = Field(default=10, description="Length of the n-grams, in tokens.")
    tokens: PositiveInt = Field(
        default=200, description="Tokens of each text that are looked at, from its beginning."
    )

    def measure(self, observed: Observer, probes: Probes) -> Measured:
        """One forward pass for each text, one generation for each fork in it."""
        if not probes.forget:
            return not_applicable("forget", "the forget split is empty")
        walks = [
            TextWalk.of(example, facts, tokens=self.tokens, n=self.n)
            for example, facts in zip(probes.forget, observed.facts(probes.forget), strict=True)
        ]
        points = [
            BranchPoint(example, at, len(walk.tokens) - at)
            for example, walk in zip(probes.forget, walks, strict=True)
            for at in walk.forks
        ]
        completions = iter(observed.forks(points))
        values = [self._value(walk, {at: next(completions) for at in walk.forks}) for walk in walks]
        return {"forget": [score_of(*pair) for pair in zip(probes.forget, values, strict=True)]}

    def _value(self, walk: TextWalk, completions: Mapping[int, Sequence[int]]) -> float | str:
        if walk.last < walk.first:
            return f"the text is too short for {self.n} tokens in a row"
        return walk.likelihood(completions, self.n)


# Extraction strength: how much of a text must be given before the model completes the rest?


def strength(right_n: Tensor) -> float:
    """``1 - k / n``: the model is right at all n tokens from the k-th on, and k is the smallest such.

    0 when the last token is wrong: the model completes no suffix.
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
    role: ClassVar[MetricRole] = MetricRole.MEMORIZATION
    definition: ClassVar[str] = (
        "longest suffix that the model generates greedily from the text before it, as a share of the text"
    )
    source: ClassVar[str] = "Carlini et al. 2021 (arXiv 2012.07805); Wang et al. 2025 (arXiv 2502.19301)"
    scale: ClassVar[str] = "0-1"
    lower_is_better: ClassVar[bool | None] = True
    caveats: ClassVar[str] = (
        "One wrong token near the end makes it 0 however much of the text is known. "
        "It is 0 for most texts of any model, so the mean rests on few items."
    )
    known_errors: ClassVar[tuple[str, ...]] = (
        "open-unlearning gives 1/n instead of 0 to a text of n tokens whose last one is wrong.",
    )

    def value(self, example: Example, facts: TokenStats) -> float | str:  # noqa: ARG002
        """The strength over the text's own tokens."""
        right_n = facts.text.right_n
        return strength(right_n) if len(right_n) else NO_TOKEN


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
