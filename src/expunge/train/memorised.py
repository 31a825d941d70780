"""How much of the forget set a model still has by heart, against text that it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field, PositiveInt
from torch import nn

from expunge.component import Component
from expunge.errors import DataError
from expunge.metrics.extraction_likelihood import ExtractionLikelihood
from expunge.metrics.memorisation_accuracy import MemorisationAccuracy, SensitiveAccuracy
from expunge.metrics.probes import Probes
from expunge.metrics.sensitive_extraction import SensitiveExtraction
from expunge.score.observer import Observer

if TYPE_CHECKING:
    from expunge.metrics.base import Metric
    from expunge.train.state import Corpus
    from expunge.types import Example

Share = Annotated[float, Field(ge=0, le=1)]


class ByHeart(NamedTuple):
    """Extraction likelihood and memorisation accuracy of some texts, 0-1."""

    el: float
    ma: float


class Memorised(Component):
    """EL_n and MA of the forget set, or of its spans only (S-EL and S-MA), each at most a level.

    A level left out is that of the holdout, measured on the model before training: what it says of
    text that it never saw. ``tokens`` is how much of each text is looked at.
    Source: Jang et al. 2023 (arXiv 2210.01504), Sec. 3.3; of spans, Wang et al. 2025 (SeUL, arXiv
    2402.05813).
    """

    of: Literal["text", "spans"] = "text"
    el_at_most: Share | None = None
    ma_at_most: Share | None = None
    n: PositiveInt = 10
    tokens: PositiveInt = 200

    @property
    def needs_holdout(self) -> bool:
        """Whether a level is that of text the model never saw."""
        return self.el_at_most is None or self.ma_at_most is None

    def check(self, corpus: Corpus) -> None:
        """Refuse a corpus that says nothing of what is asked for.

        Raises:
            DataError: a level is the holdout's and there is none, or it has no spans.
        """
        if self.needs_holdout and not corpus.holdout:
            raise DataError(
                "no holdout",
                why="the run stops when the forget set is as strange to the model as text it never saw.",
                fix="Pass --holdout FILE, or set stop.memorised.el_at_most and stop.memorised.ma_at_most.",
            )
        if self.of == "spans" and self.needs_holdout and not any(one.spans for one in corpus.holdout):
            raise DataError(
                "a holdout without spans",
                why="the run stops when spans of the forget set are as strange as those of unseen text.",
                fix="Mark them ('expunge annotate'), or set stop.memorised.el_at_most and ma_at_most.",
            )

    def levels(self, model: nn.Module, tokenizer: Any, holdout: Sequence[Example], length: int) -> ByHeart:
        """The levels in force: those given, else the holdout's."""
        if self.el_at_most is not None and self.ma_at_most is not None:
            return ByHeart(self.el_at_most, self.ma_at_most)
        unseen = self.measure(model, tokenizer, holdout, length)
        return ByHeart(
            unseen.el if self.el_at_most is None else self.el_at_most,
            unseen.ma if self.ma_at_most is None else self.ma_at_most,
        )

    def measure(
        self, model: nn.Module, tokenizer: Any, examples: Sequence[Example], length: int
    ) -> ByHeart:
        """What the model has by heart of some texts, read ``length`` tokens at a time.

        Raises:
            DataError: none of them can be scored.
        """
        observed = Observer(model, tokenizer, max_length=length)
        probes = Probes(forget=tuple(examples))
        if self.of == "spans":
            extraction, accuracy = SensitiveExtraction(n=self.n), SensitiveAccuracy()
            return ByHeart(_value(extraction, observed, probes), _value(accuracy, observed, probes))
        return ByHeart(
            _value(ExtractionLikelihood(n=self.n, tokens=self.tokens), observed, probes),
            _value(MemorisationAccuracy(tokens=self.tokens), observed, probes),
        )


def _value(metric: Metric, observed: Observer, probes: Probes) -> float:
    measured = metric.measure(observed, probes)
    value = metric.point(measured)
    if value is None:
        reasons = {score.unscored for scores in measured.values() for score in scores if score.unscored}
        raise DataError(
            f"the run cannot measure {metric.title}",
            why=f"none of the texts has a value: {'; '.join(sorted(reasons))}.",
            fix="Lower stop.memorised.n, mark spans, or raise stop.items.",
        )
    return value
