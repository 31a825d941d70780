"""Extraction likelihood (EL): from anywhere inside a text, how much of the rest does the model say?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pydantic import PositiveInt

from expunge.metrics import metrics
from expunge.metrics.base import Metric, absent
from expunge.metrics.overlap import overlap
from expunge.metrics.per_text import score_of
from expunge.score.forks import Fork

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from expunge.metrics.base import Measured
    from expunge.metrics.probes import Probes
    from expunge.score.facts import TokenFacts
    from expunge.score.observer import Observer
    from expunge.types import Example


class Walk(NamedTuple):
    """The tokens of a text, and from which place on it is left to the model to go on, up to which.

    ``wrong`` are the places where the model's first choice is another token, given the true text before.
    """

    tokens: list[int]
    first: int
    last: int
    wrong: list[int]

    @classmethod
    def of(cls, example: Example, facts: TokenFacts, *, tokens: int, n: int) -> Walk:
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

    def likelihood(self, said: Mapping[int, Sequence[int]], n: int) -> float:
        """Mean over beginnings of the overlap between what is said after them and the true rest.

        ``said`` is what the model goes on with at each fork.
        """
        wrong = iter(self.wrong)
        at = next(wrong, None)
        total = 0.0
        for begin in range(self.first, self.last + 1):
            while at is not None and at < begin:
                at = next(wrong, None)
            true = self.tokens[begin:]
            # Up to the fork the model says the truth; what it says there is the same for all before.
            whole = true if at is None else [*self.tokens[begin:at], *said[at]]
            total += overlap(whole, true, n, length=len(true))
        return total / (self.last + 1 - self.first)


@metrics.register("extraction_likelihood")
class ExtractionLikelihood(Metric):
    """``EL_n``: mean over beginnings of a text of the n-gram overlap of the greedy with the true rest.

    Exact, with one generation for each token the model gets wrong instead of one for each token: from any
    beginning greedy decoding follows the text up to the first wrong token, and what it says from there
    does not depend on where it began. A rest that the model ends early counts as many n-grams as the true
    one has.

    Source: Jang et al. 2023 (arXiv 2210.01504), Eq. 2-3; n = 10, 200 tokens.
    """

    title: ClassVar[str] = "Extraction likelihood (EL)"
    definition: ClassVar[str] = (
        "share of 10-grams of the rest of a text that the model says, over all beginnings of the text. "
        "Many generations a text, so it is measured only when asked for"
    )
    source: ClassVar[str] = "Jang et al. 2023 (arXiv 2210.01504): EL"
    scale: ClassVar[str] = "0-1"
    lower_is_better: ClassVar[bool | None] = True
    default: ClassVar[bool] = False
    misleads: ClassVar[str] = (
        "Texts that repeat themselves have high values in any model. The paper's threshold is the value on "
        "texts the model never saw: compare with the control, not with 0."
    )
    known_errors: ClassVar[tuple[str, ...]] = (
        "The released code looks at the first batch of texts only, and counts padding as text.",
    )

    n: PositiveInt = 10
    tokens: PositiveInt = 200

    def measure(self, observed: Observer, probes: Probes) -> Measured:
        """One forward pass for each text, one generation for each fork in it."""
        if not probes.forget:
            return absent("forget", "the forget split is empty")
        walks = [
            Walk.of(example, facts, tokens=self.tokens, n=self.n)
            for example, facts in zip(probes.forget, observed.facts(probes.forget), strict=True)
        ]
        asked = [
            Fork(example, at, len(walk.tokens) - at)
            for example, walk in zip(probes.forget, walks, strict=True)
            for at in walk.forks
        ]
        said = iter(observed.forks(asked))
        values = [self._value(walk, {at: next(said) for at in walk.forks}) for walk in walks]
        return {"forget": [score_of(*pair) for pair in zip(probes.forget, values, strict=True)]}

    def _value(self, walk: Walk, said: Mapping[int, Sequence[int]]) -> float | str:
        if walk.last < walk.first:
            return f"the text is too short for {self.n} tokens in a row"
        return walk.likelihood(said, self.n)
