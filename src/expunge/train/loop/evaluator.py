"""Evaluation during training: remaining knowledge of the forget set, and utility."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field, PositiveInt
from torch import nn

from expunge.component import Component
from expunge.corpus.readers import sample
from expunge.errors import DataError
from expunge.inference.observer import Observer
from expunge.metrics import standard_metric
from expunge.metrics.base import Metric, MetricRole
from expunge.metrics.knowmem import KnowMem
from expunge.metrics.memorisation import ExtractionLikelihood, MemorisationAccuracy, SensitiveAccuracy
from expunge.metrics.probes import Probes
from expunge.metrics.sensitive_extraction import SensitiveExtraction
from expunge.train.run.state import State

if TYPE_CHECKING:
    from expunge.train.run.state import Corpus
    from expunge.types import Example


LABELS = {MetricRole.KNOWLEDGE: "KnowMem", MetricRole.VERBATIM: "VerMem"}
"""How records and ledgers name what decided, by its role."""


def role_of(examples: Sequence[Example]) -> MetricRole:
    """By what a set is judged: its questions, or its documents where it has none."""
    return MetricRole.VERBATIM if all(one.is_document for one in examples) else MetricRole.KNOWLEDGE


class TrainingEvaluator:
    """Measures a model as an audit does, with an audit's metrics (0-100), on a sample of each set.

    At most ``items`` examples of a set are asked, drawn by the run's seed, so the sample is the same before
    and after a run is killed. Questions come after the solved ones of the corpus, as in an audit that is
    given the same files.
    """

    def __init__(self, state: State, *, items: int, max_length: int) -> None:
        corpus = state.corpus
        self._all = Probes(forget=corpus.forget, retain=corpus.retain)
        self.tokenizer = state.tokenizer
        self.max_length = max_length
        self.probes = Probes(
            forget=sample(corpus.forget, items, seed=state.seed, name="forget"),
            retain=sample(corpus.retain, items, seed=state.seed, name="retain"),
            forget_icl=corpus.forget_icl,
            retain_icl=corpus.retain_icl,
        )

    @property
    def metric(self) -> Metric:
        """Knowledge of the forget set's questions; the wording of its documents where it has none."""
        return standard_metric(role_of(self._all.forget))

    @property
    def asked(self) -> dict[str, Any]:
        """How the forget set is asked: by what metric, how much of it, after how many solved questions."""
        questions = self._all.questions("forget")
        solved = [each for each in self.probes.forget_icl if not (each.is_document or each.is_chat)]
        return {
            "metric": LABELS[self.metric.role],
            "items": len(self.probes.questions("forget") if questions else self.probes.forget),
            "of": len(questions or self._all.forget),
            "solved": min(len(solved), self.metric.shots) if isinstance(self.metric, KnowMem) else 0,
        }

    def forget(self, model: nn.Module) -> float:
        """How much of the forget set is known, by ``metric``."""
        return self._value(model, self.metric)

    def utility(self, model: nn.Module) -> float:
        """Knowledge of the retain set's questions."""
        if not self._all.questions("retain"):
            raise DataError(
                "utility_at_least without questions",
                why="utility is measured on the retain set's questions, and it has none.",
                fix="Add questions to the retain set, or drop utility_at_least.",
            )
        return self._value(model, standard_metric(MetricRole.UTILITY))

    def _value(self, model: nn.Module, metric: Metric) -> float:
        observed = Observer(model, self.tokenizer, max_length=self.max_length)
        value = metric.point_estimate(metric.measure(observed, self.probes))
        if value is None:
            raise DataError(
                f"the run cannot measure {metric.title}",
                why="none of the examples it evaluates can be scored.",
                fix="Raise items, or drop the rule that needs it.",
            )
        return value


# Memorisation of the forget set, compared with text the model never saw.

Share = Annotated[float, Field(ge=0, le=1)]


class MemorizationLevels(NamedTuple):
    """Extraction likelihood and memorisation accuracy of some texts, 0-1."""

    el: float
    ma: float


class MemorizationEvaluator(Component):
    """EL_n and MA of the forget set, or of its spans only (S-EL and S-MA), each at most a level.

    Source: Jang et al. 2023 (arXiv 2210.01504), Sec. 3.3; of spans, Wang et al. 2025 (SeUL, arXiv
    2402.05813).
    """

    of: Literal["text", "spans"] = Field(
        default="text",
        description="Whether whole texts are measured (EL and MA), or only their spans (S-EL and S-MA).",
    )
    el_at_most: Share | None = Field(
        default=None,
        description="The highest extraction likelihood, 0-1; null: that of the holdout before training.",
    )
    ma_at_most: Share | None = Field(
        default=None,
        description="The highest memorisation accuracy, 0-1; null: that of the holdout before training.",
    )
    n: PositiveInt = Field(default=10, description="Length of the n-grams, in tokens.")
    tokens: PositiveInt = Field(
        default=200,
        description="Tokens of each text that are looked at, from its beginning; spans are read whole.",
    )

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
                why="the run stops when the forget set is memorised no more than unseen text.",
                fix="Pass --holdout FILE, or set stop.memorised.el_at_most and stop.memorised.ma_at_most.",
            )
        if self.of == "spans" and self.needs_holdout and not any(one.spans for one in corpus.holdout):
            raise DataError(
                "a holdout without spans",
                why="the run stops when spans of the forget set are memorised no more than unseen ones.",
                fix="Mark them ('expunge annotate'), or set stop.memorised.el_at_most and ma_at_most.",
            )

    def levels(
        self, model: nn.Module, tokenizer: Any, holdout: Sequence[Example], length: int
    ) -> MemorizationLevels:
        """The levels in force: those given, else the holdout's."""
        if self.el_at_most is not None and self.ma_at_most is not None:
            return MemorizationLevels(self.el_at_most, self.ma_at_most)
        unseen = self.measure(model, tokenizer, holdout, length)
        return MemorizationLevels(
            unseen.el if self.el_at_most is None else self.el_at_most,
            unseen.ma if self.ma_at_most is None else self.ma_at_most,
        )

    def measure(
        self, model: nn.Module, tokenizer: Any, examples: Sequence[Example], length: int
    ) -> MemorizationLevels:
        """How much of some texts the model has memorised, read ``length`` tokens at a time.

        Raises:
            DataError: none of them can be scored.
        """
        observed = Observer(model, tokenizer, max_length=length)
        probes = Probes(forget=tuple(examples))
        if self.of == "spans":
            extraction, accuracy = SensitiveExtraction(n=self.n), SensitiveAccuracy()
            return MemorizationLevels(
                _value(extraction, observed, probes), _value(accuracy, observed, probes)
            )
        return MemorizationLevels(
            _value(ExtractionLikelihood(n=self.n, tokens=self.tokens), observed, probes),
            _value(MemorisationAccuracy(tokens=self.tokens), observed, probes),
        )


def _value(metric: Metric, observed: Observer, probes: Probes) -> float:
    measured = metric.measure(observed, probes)
    value = metric.point_estimate(measured)
    if value is None:
        reasons = {score.unscored for scores in measured.values() for score in scores if score.unscored}
        raise DataError(
            f"the run cannot measure {metric.title}",
            why=f"none of the texts has a value: {'; '.join(sorted(reasons))}.",
            fix="Lower stop.memorised.n, mark spans, or raise stop.items.",
        )
    return value
