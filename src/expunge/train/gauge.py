"""The two numbers by which a run decides: what is still known of the forget set, and utility."""

from __future__ import annotations

from typing import Any

from torch import nn

from expunge.corpus.sampling import sample
from expunge.errors import DataError
from expunge.metrics.base import Metric
from expunge.metrics.knowmem import KnowMemForget, Utility
from expunge.metrics.probes import Probes
from expunge.metrics.verbmem import VerMem
from expunge.score.observer import Observer
from expunge.train.state import State


class Gauge:
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
    def asked(self) -> dict[str, Any]:
        """How the forget set is asked: by what metric, how much of it, after how many solved questions."""
        questions = self._all.questions("forget")
        solved = [each for each in self.probes.forget_icl if not (each.is_document or each.is_chat)]
        return {
            "metric": "KnowMem" if questions else "VerMem",
            "items": len(self.probes.questions("forget") if questions else self.probes.forget),
            "of": len(questions or self._all.forget),
            "solved": min(len(solved), KnowMemForget().shots) if questions else 0,
        }

    def forget(self, model: nn.Module) -> float:
        """KnowMem of the forget set's questions, VerMem of its documents where it has none."""
        metric = KnowMemForget() if self._all.questions("forget") else VerMem()
        return self._value(model, metric)

    def utility(self, model: nn.Module) -> float:
        """KnowMem of the retain set's questions."""
        if not self._all.questions("retain"):
            raise DataError(
                "utility_at_least without questions",
                why="utility is measured on the retain set's questions, and it has none.",
                fix="Add questions to the retain set, or drop utility_at_least.",
            )
        return self._value(model, Utility())

    def _value(self, model: nn.Module, metric: Metric) -> float:
        observed = Observer(model, self.tokenizer, max_length=self.max_length)
        value = metric.point(metric.measure(observed, self.probes))
        if value is None:
            raise DataError(
                f"the run cannot measure {metric.title}",
                why="none of the examples it looks at can be scored.",
                fix="Raise items, or drop the rule that asks for it.",
            )
        return value
