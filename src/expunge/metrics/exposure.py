"""Exposure: how far up does a secret stand among all secrets that could be in its place?"""

from __future__ import annotations

import math
import random
import string
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt

from expunge.metrics import metrics
from expunge.metrics.base import Metric, not_applicable, score_of
from expunge.metrics.memorisation import NO_SPANS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from expunge.inference.observer import Observer
    from expunge.metrics.base import Measured
    from expunge.metrics.probes import Probes
    from expunge.types import Example

ALPHABETS = (string.digits, string.ascii_lowercase, string.ascii_uppercase)
"""A character may be any other of its kind; one of no kind (a hyphen, an accent) stays what it is."""


def choices(example: Example) -> list[str]:
    """For each character of the completion, which characters may stand there."""
    inside = {at for start, end in example.spans for at in range(start, end)}
    kinds = {letter: alphabet for alphabet in ALPHABETS for letter in alphabet}
    return [
        kinds.get(letter, letter) if at in inside else letter
        for at, letter in enumerate(example.completion)
    ]


def exposure(secret: float, others: list[float]) -> float:
    """``log2 |R| - log2 rank`` of a likelihood among itself and the others, in bits; a tie counts half."""
    rank = 1 + sum(other > secret for other in others) + sum(other == secret for other in others) / 2
    return math.log2(len(others) + 1) - math.log2(rank)


@metrics.register("exposure")
class Exposure(Metric):
    """Bits of ``log2 |R| - log2 rank`` of the text among its own variants, ranked by likelihood.

    A variant has other digits and letters, of the same kinds, in the place of the sensitive spans.
    Where there are too many to read, the rank is that among a sample of them, and the value is at most
    ``log2(candidates + 1)``.

    Source: Carlini et al. 2019 (The Secret Sharer, arXiv 1802.08232), definition 5 and section 4.3.
    """

    title: ClassVar[str] = "Exposure of the secrets"
    definition: ClassVar[str] = (
        "bits by which a text's sensitive spans rank above others of the same form; 1 bit is the median. "
        "It reads many variants of each text, so it is measured only on request"
    )
    source: ClassVar[str] = "Carlini et al. 2019 (arXiv 1802.08232): exposure"
    scale: ClassVar[str] = "bits"
    lower_is_better: ClassVar[bool | None] = True
    supports_retention: ClassVar[bool] = False
    default: ClassVar[bool] = False
    caveats: ClassVar[str] = (
        "A name ranks above random letters in any model that knows English: meant for secrets that were "
        "drawn at random (numbers, keys). Sampled, it cannot exceed log2 of the sample: 8 bits of 255 "
        "variants."
    )
    known_errors: ClassVar[tuple[str, ...]] = (
        "DEPN's code builds the rank from the ranks of single digits with the true others in sight.",
    )

    candidates: PositiveInt = Field(
        default=255,
        description=(
            "The most variants of a text that are read; where there are no more, the rank is exact."
        ),
    )
    seed: NonNegativeInt = Field(default=0, description="The seed variants are drawn with.")

    def measure(self, observed: Observer, probes: Probes) -> Measured:
        """Read every text and its variants, text by text."""
        if not probes.forget:
            return not_applicable("forget", "the forget split is empty")
        return {"forget": [score_of(example, self._value(observed, example)) for example in probes.forget]}

    def _value(self, observed: Observer, example: Example) -> float | str:
        if not example.spans:
            return NO_SPANS
        texts = self.variants(example)
        if not texts:
            return "no character of its spans has another of its kind"
        # Not remembered: no other metric asks for variants, and they would pile up.
        variants = [replace(example, completion=text, spans=()) for text in (example.completion, *texts)]
        stats = observed.read(variants)
        secret, *others = [float(facts.logp_n.double().sum()) for facts in stats]
        return exposure(secret, others) if math.isfinite(secret) else secret

    def variants(self, example: Example) -> list[str]:
        """The completion with other spans: all there are, or ``candidates`` of them drawn by ``seed``."""
        kinds = choices(example)
        if math.prod(map(len, kinds)) - 1 <= self.candidates:
            every: Iterator[str] = ("".join(letters) for letters in product(*kinds))
            return [text for text in every if text != example.completion]
        drawn = random.Random(f"{self.seed} {example.id}")
        texts: dict[str, None] = {}
        while len(texts) < self.candidates:
            text = "".join(drawn.choice(letters) for letters in kinds)
            if text != example.completion:
                texts[text] = None
        return list(texts)
