"""The verdict on one unlearned model under one condition, and the rule it follows."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from expunge.audit.forgetting import (
    ALL,
    NOTHING,
    Durability,
    Forgetting,
    Forgotten,
    WordForWord,
    assess,
    doubt,
    is_above,
    kept_of_target,
    may_hide,
    may_matter,
    nothing_to_forget,
    signed,
)
from expunge.audit.statistics.bootstrap import Estimate
from expunge.audit.statistics.significance import is_confirmed, scale_span
from expunge.metrics import metrics as registry
from expunge.metrics.base import MetricRole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from expunge.metrics.base import Metric


class Outcome(StrEnum):
    """The outcome for a model under a condition.

    ``FORGOT`` and ``FORGOT_IN_PART`` are for full precision only, ``LEAKS`` and ``NO_LEAK`` for attacks.
    """

    FORGOT = "forgot"
    FORGOT_IN_PART = "forgot in part"
    HELD = "held"
    CAME_BACK = "came back"
    DID_NOT_FORGET = "did not forget"
    UNUSABLE = "unusable"
    CANNOT_TELL = "cannot tell"
    LEAKS = "leaks"
    NO_LEAK = "no leak"


@dataclass(frozen=True, slots=True)
class Verdict:
    """An outcome and the sentence that gives its reason."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The thresholds of the verdict. ``points`` and ``usable`` come from the reproduction of 2410.16454.

    ``points``: a rise over full precision that counts as recovery when it differs from 0 by
    ``conclusions.RULE``, by the role of a metric and in percent of its scale. The first metric on which the
    target has as many also says whether the model forgot at all. Where a condition costs the target itself
    as many, the rise is also counted against the target.
    ``intact``: percent of its utility, and of what it knew, that the target must keep under a condition;
    below it the condition breaks the model itself and nothing can be concluded there.
    ``kept``: percent of the target's value at full precision from which it did not forget.
    ``partly``: without a retrained model, percent of it from which the model forgot only in part.
    ``usable``: percent of the target's utility under the same condition from which it is usable.
    ``doubt``: an interval that reaches this many times ``points`` leaves the question open.
    ``minimal_difference``: percent of a metric's scale from which a difference matters, where ``points`` do
    not name the role of the metric.
    ``on``: metrics that decide too, whatever their role, with ``minimal_difference`` as their points.
    """

    points: Mapping[MetricRole, float] = field(
        default_factory=lambda: {MetricRole.KNOWLEDGE: 5.0, MetricRole.VERBATIM: 10.0}
    )
    intact: float = 25.0
    usable: float = 75.0
    kept: float = 80.0
    partly: float = 50.0
    doubt: float = 2.0
    minimal_difference: float = 5.0
    on: tuple[str, ...] = ()

    def points_of(self, metric: Metric) -> float | None:
        """What counts as recovery in the metric's own unit; ``None`` if the metric decides no verdict."""
        share, span = self.points.get(metric.role), scale_span(metric.scale)
        if self.on and registry.name_of(metric) in self.on:
            share = self.minimal_difference
        if share is None or span is None or not metric.lower_is_better or metric.needs_control:
            return None
        return share / 100 * span

    def deciding(self, metrics: Mapping[str, Metric]) -> dict[str, float]:
        """The metrics that decide a verdict and the points of each, in the order of the roles."""
        points = {name: self.points_of(metric) for name, metric in metrics.items()}
        roles = [*self.points, *(role for role in MetricRole if role not in self.points)]
        return {
            name: value
            for role in roles
            for name, value in points.items()
            if value is not None and metrics[name].role == role
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AgainstTarget:
    """A rise under a condition that also costs the target knowledge.

    ``kept_full`` and ``kept``: percent of what the target has over the retrained model (or of its value,
    without one) that the model has at full precision and under the condition. ``rise``: their difference in
    points of the target at full precision. ``cost``: points that the target loses under the condition.
    """

    rise: Estimate
    kept_full: Estimate
    kept: Estimate
    cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictEvidence:
    """The evidence for a verdict, by metric name.

    ``points``: the metrics that decide, in order, and how many points of each count as recovery.
    ``target``: the target's values at full precision. ``retention``: the model's share of them in percent.
    ``excess``: points over the retrained model at full precision; empty without one. ``over_control``: the
    model's share of what the target has over it, in percent. ``word_for_word``: the answers that the model
    still gives in the words of the truth.
    ``recovery``: the rise over full precision; ``None`` at full precision itself.
    ``utility``: the share of the target's utility under the same condition, in percent.
    ``unknowing``: the metrics on which the model scores no more than the retrained model does under the
    same condition. Such a rise is no recovery: a model that never saw the data scores the same.
    ``broken``: why no verdict is possible under this condition (``broken_by``).
    ``against_target``: the same rises relative to the target, for the metrics on which the condition
    costs the target itself as much as counts as recovery.
    """

    points: Mapping[str, float]
    target: Mapping[str, Estimate]
    retention: Mapping[str, Estimate]
    recovery: Mapping[str, Estimate] | None
    utility: Estimate
    unknowing: frozenset[str] = frozenset()
    broken: str | None = None
    against_target: Mapping[str, AgainstTarget] = field(default_factory=dict)
    excess: Mapping[str, Estimate] = field(default_factory=dict)
    over_control: Mapping[str, Estimate] = field(default_factory=dict)
    word_for_word: WordForWord | None = None


def judge(evidence: VerdictEvidence, rule: Rule) -> Verdict:
    """The verdict: the first check that applies, else forgot (full precision) or held (a condition).

    The checks in order: the target knows too little; the condition breaks the target; did not forget; came
    back; a score is missing; unusable; too few items.
    """
    checks = (
        *(_nothing_to_forget, _breaks_the_model, _did_not_forget, _came_back),
        *(_unmeasured, _unusable, _too_few),
    )
    verdicts = (check(evidence, rule) for check in checks)
    return next((verdict for verdict in verdicts if verdict is not None), None) or _good(evidence, rule)


def durability(outcome: Outcome, forgotten: Forgotten, *, is_above: bool) -> Durability | None:
    """Whether a model stays forgotten under a condition; ``None`` for an outcome at full precision.

    ``is_above``: a paired interval puts the model above the retrained one under the condition.
    """
    if outcome is Outcome.HELD:
        stays = forgotten is Forgotten.YES and not is_above
        return Durability.STAYS_FORGOTTEN if stays else Durability.NO_WORSE
    return _DURABILITY.get(outcome)


_DURABILITY = {
    Outcome.CAME_BACK: Durability.COMES_BACK,
    Outcome.DID_NOT_FORGET: Durability.NOT_FORGOTTEN,
    Outcome.UNUSABLE: Durability.UNUSABLE,
    Outcome.CANNOT_TELL: Durability.CANNOT_TELL,
    Outcome.LEAKS: Durability.LEAKS,
    Outcome.NO_LEAK: Durability.NO_LEAK,
}


def broken_by(
    kept: Mapping[str, Estimate], points: Mapping[str, float], rule: Rule, *, what: str = "format"
) -> str | None:
    """Why no verdict is possible under a condition: by metric, what the target itself keeps (percent).

    ``points`` names the metrics that decide a verdict; the others are of utility. ``None`` where the target
    keeps ``rule.intact`` percent of its utility and of something that it knew.
    """
    known = {name: each.value for name, each in kept.items() if each.value is not None}
    lost = {name: share for name, share in known.items() if share < rule.intact}
    knowledge = [name for name in known if name in points]
    if not any(name not in points for name in lost) and not (
        knowledge and all(name in lost for name in knowledge)
    ):
        return None
    shares = " and ".join(f"{max(share, 0.0):.0f} % of its {name}" for name, share in lost.items())
    return (
        f"this {what} breaks the model itself: under it the target keeps {shares}; "
        f"{rule.intact:.0f} % are needed for a verdict."
    )


def _breaks_the_model(evidence: VerdictEvidence, rule: Rule) -> Verdict | None:  # noqa: ARG001
    return None if evidence.broken is None else Verdict(Outcome.CANNOT_TELL, evidence.broken)


def _nothing_to_forget(evidence: VerdictEvidence, rule: Rule) -> Verdict | None:  # noqa: ARG001
    reason = nothing_to_forget(evidence)
    return Verdict(Outcome.CANNOT_TELL, reason) if reason else None


def _did_not_forget(evidence: VerdictEvidence, rule: Rule) -> Verdict | None:
    forgetting = assess(evidence, rule)
    if forgetting.answer is not Forgotten.NO:
        return None
    return Verdict(Outcome.DID_NOT_FORGET, forgetting.reason)


def _came_back(evidence: VerdictEvidence, rule: Rule) -> Verdict | None:  # noqa: ARG001
    plain = {
        name: f"{name} rose by {signed(rise)} points over full precision ({points:g} count as recovery)"
        for name, rise in _above_control(evidence)
        if _is_recovery(rise, points := evidence.points[name])
    }
    against = {
        name: f"{_beside_target(name, each)} ({points:g} count as recovery)"
        for name, each in _against_target(evidence)
        if _is_recovery(each.rise, points := evidence.points[name])
    }
    back = against | plain
    return Verdict(Outcome.CAME_BACK, f"{'; '.join(back.values())}.") if back else None


def _unmeasured(evidence: VerdictEvidence, rule: Rule) -> Verdict | None:
    if evidence.recovery is None:
        return _unanswered(assess(evidence, rule))
    _, share = kept_of_target(evidence)
    if share.value is None:
        return Verdict(Outcome.CANNOT_TELL, f"forgetting has no score against the target: {share.reason}.")
    if not _scored(evidence.recovery):
        why = next((estimate.reason for estimate in evidence.recovery.values()), NOTHING)
        return Verdict(Outcome.CANNOT_TELL, f"recovery has no score: {why}.")
    return None


def _unanswered(forgetting: Forgetting) -> Verdict | None:
    if forgetting.answer is not Forgotten.CANNOT_TELL:
        return None
    return Verdict(Outcome.CANNOT_TELL, forgetting.reason)


def _unusable(evidence: VerdictEvidence, rule: Rule) -> Verdict | None:
    share = evidence.utility.value
    if share is None or share >= rule.usable:
        return None
    lost = f"it keeps {share:.0f} % of the target's utility under the same condition"
    return Verdict(Outcome.UNUSABLE, f"{lost}; {rule.usable:.0f} % are needed.")


def _too_few(evidence: VerdictEvidence, rule: Rule) -> Verdict | None:
    if evidence.recovery is None:
        return None
    name, share = kept_of_target(evidence)
    if share.high is None or share.high >= ALL:
        return _open(f"it may have kept all of the target's {name}", share)
    rises = _above_control(evidence)
    for name, rise in rises:
        if may_matter(rise, evidence.points[name], rule.doubt):
            return _open(f"{name} may have risen by {signed(rise)} points{doubt(rise)}", rise)
    for name, named in _against_target(evidence):
        if may_matter(named.rise, evidence.points[name], rule.doubt):
            return _open(_beside_target(name, named, "may have risen"), named.rise)
    # Where no item changed the interval has no width: what so few may have missed is the doubt. One
    # measure with items enough answers it for those with few, a handful of documents say.
    measured = _scored(evidence.recovery)
    if rises and all(may_hide(rise, rule.doubt * evidence.points[name]) for name, rise in measured):
        name, rise = max(rises, key=lambda named: named[1].n)
        return _open(f"{name} may have risen by up to {rise.detectable:.0f} points unseen", rise)
    return None


def _good(evidence: VerdictEvidence, rule: Rule) -> Verdict:
    utility = "" if evidence.utility.value is not None else " Utility was not measured."
    if evidence.recovery is None:
        forgetting = assess(evidence, rule)
        partly = forgetting.answer is Forgotten.PARTLY
        outcome = Outcome.FORGOT_IN_PART if partly else Outcome.FORGOT
        return Verdict(outcome, f"{forgetting.reason}{utility}")
    risen = ", ".join(f"{name} {signed(rise)}" for name, rise in _scored(evidence.recovery))
    beside = "".join(f" {_beside_target(name, each)}." for name, each in _against_target(evidence))
    below = ", ".join(sorted(evidence.unknowing & evidence.recovery.keys()))
    control = f" On {below} it scores no more than the retrained model." if below else ""
    return Verdict(Outcome.HELD, f"no recovery: {risen} points.{beside}{control}{utility}")


def _open(what: str, estimate: Estimate) -> Verdict:
    return Verdict(Outcome.CANNOT_TELL, f"{what}: {estimate.n} items are not enough to tell.")


def _above_control(evidence: VerdictEvidence) -> list[tuple[str, Estimate]]:
    """The rises that can be recoveries: scored, and above what the retrained model says."""
    return [
        (name, rise) for name, rise in _scored(evidence.recovery or {}) if name not in evidence.unknowing
    ]


def _against_target(evidence: VerdictEvidence) -> list[tuple[str, AgainstTarget]]:
    """The rises counted against the target that can be recoveries."""
    return [
        (name, each)
        for name, each in evidence.against_target.items()
        if each.rise.value is not None and name not in evidence.unknowing
    ]


def _beside_target(name: str, each: AgainstTarget, rose: str = "rose") -> str:
    """How a model's share of what the target knows changed, where the target lost some of it."""
    return (
        f"{name} {rose} from {each.kept_full.value:.0f} % of the target's at full precision to "
        f"{each.kept.value:.0f} % under this condition, which costs the target {each.cost:.1f} points: "
        f"{signed(each.rise)} points against the target"
    )


def _scored(estimates: Mapping[str, Estimate]) -> list[tuple[str, Estimate]]:
    return [(name, estimate) for name, estimate in estimates.items() if estimate.value is not None]


def _is_recovery(rise: Estimate, points: float) -> bool:
    return rise.value is not None and rise.value >= points and is_above(rise) and is_confirmed(rise)
