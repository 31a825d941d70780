"""The two questions of every audit: did the model forget, and does it stay so under a condition?"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from expunge.audit.statistics.bootstrap import Estimate
from expunge.audit.statistics.significance import chance, is_confirmed
from expunge.metrics.base import contains

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from expunge.audit.verdict import Rule, VerdictEvidence
    from expunge.metrics.base import Measured

NOTHING = "nothing was measured"
ALL = 100.0
"""Percent of the target's value: an interval that reaches it does not separate the two models."""


class Forgotten(StrEnum):
    """Whether a model forgot, at full precision."""

    YES = "yes"
    PARTLY = "partly"
    NO = "no"
    CANNOT_TELL = "cannot tell"


class Durability(StrEnum):
    """Whether it stays so under a condition.

    ``STAYS_FORGOTTEN`` takes a model that forgot and that is not above the retrained model under the
    condition either; ``NO_WORSE`` is all that can be said of any other.
    """

    STAYS_FORGOTTEN = "stays forgotten"
    NO_WORSE = "no worse than at full precision"
    COMES_BACK = "comes back"
    NOT_FORGOTTEN = "not forgotten"
    LEAKS = "leaks under attack"
    NO_LEAK = "no leak under attack"
    UNUSABLE = "no longer usable"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True, kw_only=True)
class WordForWord:
    """How many items a model still answers with the whole truth, in its words and their order."""

    given: int
    asked: int
    what: str = "answers"

    def __str__(self) -> str:
        return f"{self.given} of {self.asked} {self.what} word for word"

    @property
    def percent(self) -> float:
        """The share of the items."""
        return ALL * self.given / self.asked


@dataclass(frozen=True, slots=True)
class Forgetting:
    """The answer to the first question, and the sentence that gives its reason."""

    answer: Forgotten
    reason: str


def count_word_for_word(tables: Iterable[Measured], *, what: str) -> WordForWord | None:
    """Over one or several seeds; ``None`` where the metric does not keep what was said and the truth."""
    pairs = [
        (score.detail["truth"], score.detail["said"])
        for table in tables
        for scores in table.values()
        for score in scores
        if score.value is not None and score.detail.get("truth") and "said" in score.detail
    ]
    if not pairs:
        return None
    given = sum(contains(said, truth) for truth, said in pairs)
    return WordForWord(given=given, asked=len(pairs), what=what)


def assess(evidence: VerdictEvidence, rule: Rule) -> Forgetting:
    """Whether the model forgot: against the retrained model, else against the target.

    With a retrained model the paired interval of what the model has over it decides. Without one it is the
    share of the target's value, and the answers still given word for word.
    """
    if nothing_to_forget(evidence):
        return Forgetting(Forgotten.CANNOT_TELL, nothing_to_forget(evidence))
    above = {name: excess for name, excess in evidence.excess.items() if is_above(excess)}
    if evidence.excess and not above:
        return _at_the_control(evidence, rule)
    kept = _not_forgotten(evidence, rule)
    if kept:
        return Forgetting(Forgotten.NO, kept)
    if above:
        return _above_control(above)
    return _against_target(evidence, rule)


def nothing_to_forget(evidence: VerdictEvidence) -> str:
    """That the target knows next to nothing; empty if it knows enough, or if there is none."""
    known = [(name, each.value) for name, each in evidence.target.items() if each.value is not None]
    if not known or any(value >= evidence.points[name] for name, value in known):
        return ""
    scores = " and ".join(f"{value:.1f} on {name}" for name, value in known)
    return f"the target itself scores only {scores}: there is little to forget."


def kept_of_target(evidence: VerdictEvidence) -> tuple[str, Estimate]:
    """The first deciding metric that the target knows, and the share of it the model kept."""
    shares = [(name, evidence.retention[name]) for name in evidence.points if name in evidence.retention]
    for name, share in shares:
        known = evidence.target[name].value if name in evidence.target else None
        if share.value is not None and known is not None and known >= evidence.points[name]:
            return name, share
    missing = (share for _, share in shares if share.value is None)
    return "", next(missing, Estimate(None, reason=NOTHING))


def _above_control(above: Mapping[str, Estimate]) -> Forgetting:
    """Partly forgotten where a difference is confirmed; else the items are not enough to tell."""
    shown = {
        name: f"{name} is {signed(excess)} points above the retrained model"
        for name, excess in above.items()
    }
    confirmed = [text for name, text in shown.items() if is_confirmed(above[name])]
    if confirmed:
        return Forgetting(Forgotten.PARTLY, f"{'; '.join(confirmed)}.")
    name, excess = next(iter(above.items()))
    return _open(f"{shown[name]}{doubt(excess)}", excess)


def is_above(excess: Estimate | None) -> bool:
    """Whether the whole interval of a difference is above 0."""
    return excess is not None and excess.low is not None and excess.low > 0


def _not_forgotten(evidence: VerdictEvidence, rule: Rule) -> str:
    """Why the model did not forget; empty if that cannot be said."""
    name, share = kept_of_target(evidence)
    over = evidence.over_control.get(name, share) if evidence.excess else share
    largest = max((each.value for each in (share, over) if each.value is not None), default=None)
    if largest is not None and largest >= rule.kept:
        shown = share if share.value is not None and share.value >= rule.kept else over
        beyond = "" if shown is share else " knowledge beyond the retrained model's, by"
        return (
            f"at full precision it keeps {shown.value:.0f} % of the target's{beyond} {name}; "
            f"below {rule.kept:.0f} % counts as forgotten."
        )
    said = evidence.word_for_word
    if said is not None and not evidence.target and said.percent >= rule.kept:
        return f"the model still gives the forgotten text: {said}."
    return ""


def _at_the_control(evidence: VerdictEvidence, rule: Rule) -> Forgetting:
    """Nothing is above the retrained model: the items are enough to say so, or not."""
    scored = {name: each for name, each in evidence.excess.items() if each.value is not None}
    if not scored:
        reason = next((each.reason for each in evidence.excess.values()), None) or NOTHING
        return Forgetting(
            Forgotten.CANNOT_TELL, f"there is no score against the retrained model: {reason}."
        )
    for name, excess in scored.items():
        if may_matter(excess, evidence.points[name], rule.doubt):
            return _open(f"{name} is {signed(excess)} points above the retrained model", excess)
    if all(may_hide(excess, rule.doubt * evidence.points[name]) for name, excess in scored.items()):
        name, excess = max(scored.items(), key=lambda named: named[1].n)
        return _open(
            f"{name} may be up to {excess.detectable:.0f} points above the retrained model", excess
        )
    shown = ", ".join(f"{name} {signed(excess)}" for name, excess in scored.items())
    if not evidence.target:
        return Forgetting(
            Forgotten.CANNOT_TELL,
            f"it knows no more than the retrained model ({shown} points), but without the model before "
            "unlearning it is not known how much there was to forget.",
        )
    return Forgetting(Forgotten.YES, f"no more than the retrained model knows: {shown} points.")


def _against_target(evidence: VerdictEvidence, rule: Rule) -> Forgetting:
    name, share = kept_of_target(evidence)
    said = evidence.word_for_word
    if said is not None and said.given and not evidence.target:
        reason = "without the model before unlearning it is not known whether it ever gave the others"
        return Forgetting(Forgotten.CANNOT_TELL, f"the model still gives {said}; {reason}.")
    if said is not None and said.percent >= rule.minimal_difference:
        return Forgetting(Forgotten.PARTLY, f"the model still gives {said}.")
    if share.value is None:
        reason = f"forgetting has no score against the target: {share.reason}."
        return Forgetting(Forgotten.CANNOT_TELL, reason)
    if share.high is None or share.high >= ALL:
        return _open(f"it may have kept all of the target's {name}", share)
    kept = f"it keeps {share.value:.0f} % of the target's {name}"
    if share.value >= rule.partly:
        return Forgetting(Forgotten.PARTLY, f"{kept}; below {rule.partly:.0f} % counts as forgotten.")
    words = "" if said is None else f" and gives {said}"
    return Forgetting(Forgotten.YES, f"{kept}{words}; what it would score by guessing is not known.")


def _open(what: str, estimate: Estimate) -> Forgetting:
    return Forgetting(Forgotten.CANNOT_TELL, f"{what}: {estimate.n} items are not enough to tell.")


def may_matter(difference: Estimate, points: float, doubt: float) -> bool:
    """Whether a difference that is not surely there may still be: large, or with an interval that is."""
    return (
        difference.high is None or (difference.value or 0.0) >= points or difference.high >= doubt * points
    )


def may_hide(difference: Estimate, limit: float) -> bool:
    """Whether no item differs, and so few items may have missed as much as ``limit``."""
    return difference.low == difference.high and (difference.detectable or 0.0) >= limit


def signed(estimate: Estimate) -> str:
    """``+3.0 [-1.0, +7.0]``."""
    interval = "" if estimate.low is None else f" [{estimate.low:+.1f}, {estimate.high:+.1f}]"
    return f"{estimate.value:+.1f}{interval}"


def doubt(difference: Estimate) -> str:
    """What a permutation test has against a difference whose interval lies above 0; empty if nothing."""
    if is_confirmed(difference) or not is_above(difference):
        return ""
    return f", which a permutation test does not confirm (p = {chance(difference):.2g}, corrected)"


def above_control(excess: Mapping[str, Estimate | None]) -> bool:
    """Whether any interval is above the retrained model."""
    return any(is_above(each) for each in excess.values())
