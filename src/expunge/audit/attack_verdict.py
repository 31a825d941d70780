"""The verdict on a model under an attack, alone or on a quantized model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.audit.stats import Conclusion, Estimate
from expunge.audit.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

VALID = 0.9
"""Share of its own utility that a model must keep; below it the attack is inconclusive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackEvidence:
    """The evidence for the verdict on a model under an attack.

    Attributes:
        excess: by metric, points over the retrained model under the same attack; empty without one.
        gain: by metric, points over the same model at full precision, on the items asked under the attack.
        utility_kept: the share of its own utility that the model keeps under the attack, 0 to 1.
        control_utility_kept: the same of the retrained model.
        broken: why no verdict is possible under this attack.
    """

    excess: Mapping[str, Estimate]
    gain: Mapping[str, Estimate]
    utility_kept: float | None = None
    control_utility_kept: float | None = None
    broken: str | None = None


def judge_attack(evidence: AttackEvidence) -> Verdict:
    """Leaks, no leak or cannot tell; a metric that shows a leak takes precedence."""
    invalid = _invalid(evidence)
    if invalid is not None:
        return invalid
    if not evidence.excess:
        return _without_control(evidence.gain)
    leaks = [
        f"{name} is {_points(excess)} points above the retrained model under the same attack"
        for name, excess in evidence.excess.items()
        if _differs(excess) and (excess.value or 0.0) > 0
    ]
    if leaks:
        return Verdict(Outcome.LEAKS, f"{'; '.join(leaks)}.")
    below = [name for name, excess in evidence.excess.items() if _differs(excess)]
    same = [name for name, each in evidence.excess.items() if each.conclusion is Conclusion.SAME]
    if not below and not same:
        name, widest = max(evidence.excess.items(), key=lambda item: item[1].n)
        return Verdict(
            Outcome.CANNOT_TELL,
            f"{name} is {_points(widest)} points above the retrained model: "
            f"{widest.n} items are not enough to tell."
            if widest.value is not None
            else f"{name} has no score under this attack: {widest.reason}.",
        )
    where = " and ".join(dict.fromkeys(below + same))
    trace = " It scores below it, which is also a trace of unlearning." if below else ""
    return Verdict(
        Outcome.NO_LEAK,
        f"on {where} it scores no more than the retrained model under the same attack.{trace}",
    )


def _invalid(evidence: AttackEvidence) -> Verdict | None:
    if evidence.broken is not None:
        return Verdict(Outcome.CANNOT_TELL, evidence.broken)
    for who, kept in (
        ("the model", evidence.utility_kept),
        ("the retrained model", evidence.control_utility_kept),
    ):
        if kept is not None and kept < VALID:
            return Verdict(
                Outcome.CANNOT_TELL,
                f"this attack breaks {who}: it keeps {100 * kept:.0f} % of its own utility; "
                f"{100 * VALID:.0f} % are needed for a verdict.",
            )
    return None


def _without_control(gain: Mapping[str, Estimate]) -> Verdict:
    """Without a retrained model there is no baseline for what the attack elicits from any model."""
    risen = [f"{name} {_points(each)}" for name, each in gain.items() if each.value is not None]
    if not risen:
        return Verdict(Outcome.CANNOT_TELL, "nothing was measured under this attack.")
    return Verdict(
        Outcome.CANNOT_TELL,
        f"against full precision: {', '.join(risen)} points; without a retrained model there is nothing to "
        "compare this with (--retrained MODEL).",
    )


def _differs(estimate: Estimate) -> bool:
    return estimate.conclusion is Conclusion.DIFFERS and estimate.value is not None


def _points(estimate: Estimate) -> str:
    if estimate.value is None:
        return "no"
    digits = 2 if abs(estimate.value) < 1 else 1
    interval = "" if estimate.low is None else f" [{estimate.low:+.{digits}f}, {estimate.high:+.{digits}f}]"
    return f"{estimate.value:+.{digits}f}{interval}"
