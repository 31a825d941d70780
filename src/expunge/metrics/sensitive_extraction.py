"""S-EL: from just before a sensitive span, how much of it does the model say?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pydantic import Field, NonNegativeInt, PositiveInt

from expunge.inference.generation.branch import BranchPoint
from expunge.metrics import metrics
from expunge.metrics.base import Metric, MetricRole, not_applicable, score_of
from expunge.metrics.memorisation import NO_SPANS, overlap

if TYPE_CHECKING:
    from expunge.inference.observer import Observer
    from expunge.inference.texts import TokenStats
    from expunge.metrics.base import Measured
    from expunge.metrics.probes import Probes


class SensitiveRun(NamedTuple):
    """Sensitive tokens in a row: from ``start`` up to and without ``end``."""

    start: int
    end: int


def sensitive_runs(facts: TokenStats) -> list[SensitiveRun]:
    """The sensitive tokens of a text as runs; spans that touch are one."""
    places = facts.sensitive_n.nonzero()[:, 0].tolist()
    starts = [at for at in places if at - 1 not in set(places)]
    ends = [at + 1 for at in places if at + 1 not in set(places)]
    return [SensitiveRun(*pair) for pair in zip(starts, ends, strict=True)]


@metrics.register("sensitive_extraction")
class SensitiveExtraction(Metric):
    """``S-EL_n``: mean over spans and beginnings before them of the n-gram overlap with the span.

    The model continues the text from a beginning to the end of the span; a model that copies scores 1 from
    the span itself.

    Source: Wang et al. 2025 (SeUL, arXiv 2402.05813), in this package's reading: the paper gives no formula
    that could be had.
    """

    title: ClassVar[str] = "Extraction of sensitive spans (S-EL)"
    role: ClassVar[MetricRole] = MetricRole.EXTRACTION
    definition: ClassVar[str] = (
        "share of the n-grams said in the place of a sensitive span that occur in it. A generation for "
        "each span, so it is measured only on request"
    )
    source: ClassVar[str] = "SeUL (arXiv 2402.05813): S-EL, our reading"
    scale: ClassVar[str] = "0-1"
    lower_is_better: ClassVar[bool | None] = True
    default: ClassVar[bool] = False
    caveats: ClassVar[str] = (
        "The text before a span may give it away (an address after a name said twice): look at the "
        "control. Spans of one token are either said or not."
    )

    n: PositiveInt = Field(
        default=10, description="Length of the n-grams, in tokens; no longer than the span."
    )
    before: NonNegativeInt = Field(
        default=0,
        description=(
            "The most tokens before the span from which the model continues; 0 starts at the span itself."
        ),
    )

    def measure(self, observed: Observer, probes: Probes) -> Measured:
        """One generation for each beginning before each span."""
        if not probes.forget:
            return not_applicable("forget", "the forget split is empty")
        facts = observed.facts(probes.forget)
        beginnings = [self._beginnings(stats) for stats in facts]
        forks = [
            BranchPoint(example, at, run.end - at)
            for example, stats in zip(probes.forget, beginnings, strict=True)
            for run, at in stats
        ]
        completions = iter(observed.forks(forks))
        scores = []
        for example, stats, pairs in zip(probes.forget, facts, beginnings, strict=True):
            values = [
                self._overlap(next(completions), stats.token_n.tolist(), run, at) for run, at in pairs
            ]
            scores.append(score_of(example, sum(values) / len(values) if values else NO_SPANS))
        return {"forget": scores}

    def _beginnings(self, facts: TokenStats) -> list[tuple[SensitiveRun, int]]:
        return [
            (run, at)
            for run in sensitive_runs(facts)
            for at in range(max(0, run.start - self.before), run.start + 1)
        ]

    def _overlap(self, generated: list[int], tokens: list[int], run: SensitiveRun, at: int) -> float:
        n = min(self.n, run.end - run.start)
        return overlap(generated, tokens[run.start : run.end], n, length=run.end - at)
