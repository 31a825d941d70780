from __future__ import annotations

from dataclasses import replace

import pytest

from expunge.audit.forgetting import Forgotten, assess
from expunge.audit.statistics.bootstrap import Estimate
from expunge.audit.verdict import AgainstTarget, Outcome, Rule, VerdictEvidence, broken_by, judge
from expunge.metrics import metrics
from expunge.metrics.base import Metric

RULE = Rule()
USEFUL = Estimate(95.0, 90.0, 99.0, 50)


def about(value: float, width: float = 2.0, n: int = 50) -> Estimate:
    return Estimate(value, value - width, value + width, n)


POINTS = {"knowmem_forget": 5.0, "verbmem": 10.0}
FORGOTTEN = VerdictEvidence(
    points=POINTS,
    target={"knowmem_forget": about(60.0), "verbmem": about(90.0)},
    retention={"knowmem_forget": about(30.0), "verbmem": about(15.0)},
    recovery=None,
    utility=USEFUL,
)


def after(
    knowmem: Estimate | None = None, verbmem: Estimate | None = None, **changes: object
) -> VerdictEvidence:
    """The forgotten model under a condition that adds so much."""
    risen = {"knowmem_forget": knowmem or about(0.0), "verbmem": verbmem or about(0.0)}
    return replace(FORGOTTEN, recovery=risen, **changes)


def outcome(evidence: VerdictEvidence, rule: Rule = RULE) -> Outcome:
    return judge(evidence, rule).outcome


def test_forgot_at_full_precision_and_held_under_a_transform() -> None:
    assert judge(FORGOTTEN, RULE).outcome is Outcome.FORGOT
    assert "30 % of the target's knowmem_forget" in judge(FORGOTTEN, RULE).reason
    assert judge(after(), RULE).outcome is Outcome.HELD
    assert "knowmem_forget +0.0 [-2.0, +2.0]" in judge(after(), RULE).reason


@pytest.mark.parametrize(
    ("knowmem", "verbmem", "expected"),
    [
        (about(5.0), None, Outcome.CAME_BACK),  # 5 points of knowledge are recovery
        (about(4.9), None, Outcome.HELD),
        (None, about(10.0), Outcome.CAME_BACK),  # 10 points verbatim are
        (None, about(9.9), Outcome.HELD),
        (about(-20.0), about(12.0), Outcome.CAME_BACK),  # either is enough
        (about(6.0, width=6.1), None, Outcome.CANNOT_TELL),  # interval includes 0
        (about(1.0, width=9.5), None, Outcome.CANNOT_TELL),  # reaches twice the line
        (about(1.0, width=8.5), None, Outcome.HELD),
        (None, about(1.0, width=19.5), Outcome.CANNOT_TELL),
        (Estimate(50.0, n=1, reason="one item"), None, Outcome.CANNOT_TELL),  # no interval
    ],
)
def test_recovery_by_its_size_and_interval(
    knowmem: Estimate | None, verbmem: Estimate | None, expected: Outcome
) -> None:
    assert outcome(after(knowmem, verbmem)) is expected


def test_the_paper_s_case_comes_back() -> None:
    # NPO_KLR on NEWS: 36.6 -> 53.7 knowledge, 16.6 -> 34.1 verbatim (2410.16454, Table 1).
    evidence = replace(
        after(about(17.1), about(17.5)),
        target={"knowmem_forget": about(63.9), "verbmem": about(58.4)},
        retention={"knowmem_forget": about(57.3), "verbmem": about(28.4)},
    )
    verdict = judge(evidence, RULE)
    assert verdict.outcome is Outcome.CAME_BACK
    assert verdict.reason == (
        "knowmem_forget rose by +17.1 [+15.1, +19.1] points over full precision (5 count as recovery); "
        "verbmem rose by +17.5 [+15.5, +19.5] points over full precision (10 count as recovery)."
    )


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (80.0, Outcome.DID_NOT_FORGET),
        (79.9, Outcome.FORGOT_IN_PART),
        (50.0, Outcome.FORGOT_IN_PART),
        (49.9, Outcome.FORGOT),
    ],
)
def test_what_is_kept_at_full_precision(kept: float, expected: Outcome) -> None:
    assert outcome(replace(FORGOTTEN, retention={"knowmem_forget": about(kept)})) is expected


def test_what_a_permutation_test_cannot_confirm_is_said() -> None:
    sure, unsure = (replace(about(60.0), p=0.01, p_table=p) for p in (0.03, 0.0625))
    assert "permutation" not in judge(after(sure), RULE).reason
    verdict = judge(after(unsure), RULE)
    assert verdict.outcome is Outcome.CANNOT_TELL
    assert verdict.reason == (
        "knowmem_forget may have risen by +60.0 [+58.0, +62.0] points, which a permutation test does not "
        "confirm (p = 0.062, corrected): 50 items are not enough to tell."
    )


def test_above_the_control_takes_a_confirmed_difference() -> None:
    for p, answer in ((0.04, Forgotten.PARTLY), (0.06, Forgotten.CANNOT_TELL)):
        excess = {"knowmem_forget": replace(about(20.0), p=0.01, p_table=p)}
        evidence = replace(FORGOTTEN, excess=excess)
        assert assess(evidence, RULE).answer is answer
        assert outcome(evidence) is (
            Outcome.FORGOT_IN_PART if answer is Forgotten.PARTLY else Outcome.CANNOT_TELL
        )


def test_not_forgetting_comes_before_coming_back() -> None:
    assert outcome(after(about(20.0), retention={"knowmem_forget": about(95.0)})) is Outcome.DID_NOT_FORGET


def test_knowledge_decides_where_the_target_has_it_else_verbatim_memory() -> None:
    both = {"knowmem_forget": about(30.0), "verbmem": about(95.0)}
    assert outcome(replace(FORGOTTEN, retention=both)) is Outcome.FORGOT
    ignorant = {"knowmem_forget": about(3.0), "verbmem": about(90.0)}
    assert outcome(replace(FORGOTTEN, retention=both, target=ignorant)) is Outcome.DID_NOT_FORGET
    missing = Estimate(None, reason="no questions")
    only_text = replace(
        FORGOTTEN,
        target={"knowmem_forget": missing, "verbmem": about(90.0)},
        retention={"knowmem_forget": missing, "verbmem": about(95.0)},
    )
    assert outcome(only_text) is Outcome.DID_NOT_FORGET


def test_a_target_that_knows_little_has_little_to_forget() -> None:
    verdict = judge(after(target={"knowmem_forget": about(4.0), "verbmem": about(8.0)}), RULE)
    assert verdict.outcome is Outcome.CANNOT_TELL
    assert "scores only 4.0 on knowmem_forget and 8.0 on verbmem" in verdict.reason


@pytest.mark.parametrize(("share", "expected"), [(74.9, Outcome.UNUSABLE), (75.0, Outcome.HELD)])
def test_utility_has_a_floor(share: float, expected: Outcome) -> None:
    assert outcome(after(utility=about(share))) is expected


def test_coming_back_comes_before_being_unusable() -> None:
    assert outcome(after(about(20.0), utility=about(10.0))) is Outcome.CAME_BACK


def test_unmeasured_utility_is_said() -> None:
    verdict = judge(after(utility=Estimate(None, reason="no questions")), RULE)
    assert verdict.outcome is Outcome.HELD
    assert verdict.reason.endswith("Utility was not measured.")


def test_without_a_target_only_a_return_can_be_told() -> None:
    lost = Estimate(None, reason="the audit has no target model")
    alone = after(target={}, retention={"knowmem_forget": lost, "verbmem": lost}, utility=lost)
    verdict = judge(alone, RULE)
    assert verdict.outcome is Outcome.CANNOT_TELL
    assert "no target model" in verdict.reason
    risen = {"knowmem_forget": about(20.0)}
    assert outcome(replace(alone, recovery=risen)) is Outcome.CAME_BACK


def test_a_transform_without_scores_is_never_held() -> None:
    missing = Estimate(None, reason="the model says nothing")
    verdict = judge(replace(FORGOTTEN, recovery={"knowmem_forget": missing}), RULE)
    assert verdict.outcome is Outcome.CANNOT_TELL
    assert "the model says nothing" in verdict.reason


def test_nothing_measured_at_all() -> None:
    nothing = VerdictEvidence(points=POINTS, target={}, retention={}, recovery={}, utility=Estimate(None))
    assert outcome(nothing) is Outcome.CANNOT_TELL


@pytest.mark.parametrize("kept", [Estimate(50.0, n=1, reason="one item"), Estimate(70.0, 30.0, 104.0, 6)])
def test_too_few_items_to_call_it_forgotten(kept: Estimate) -> None:
    verdict = judge(replace(FORGOTTEN, retention={"knowmem_forget": kept}), RULE)
    assert verdict.outcome is Outcome.CANNOT_TELL
    assert f"{kept.n} items are not enough" in verdict.reason


def test_the_lines_can_be_moved() -> None:
    assert outcome(after(about(4.0), points={"knowmem_forget": 3.0, "verbmem": 10.0})) is Outcome.CAME_BACK
    assert outcome(after(utility=about(60.0)), Rule(usable=50.0)) is Outcome.HELD


def test_a_rise_to_what_the_control_says_is_no_recovery() -> None:
    risen = after(knowmem=Estimate(0.0, -1.0, 1.0, 50), verbmem=Estimate(15.0, 3.0, 27.0, 50))
    assert outcome(risen) is Outcome.CAME_BACK
    verdict = judge(replace(risen, unknowing=frozenset({"verbmem"})), RULE)
    assert verdict.outcome is Outcome.HELD
    assert "On verbmem it scores no more than the retrained model." in verdict.reason


def test_a_rise_above_the_control_on_another_metric_still_counts() -> None:
    risen = after(knowmem=Estimate(20.0, 10.0, 30.0, 50), verbmem=Estimate(15.0, 3.0, 27.0, 50))
    assert outcome(replace(risen, unknowing=frozenset({"verbmem"}))) is Outcome.CAME_BACK


@pytest.mark.parametrize(
    ("items", "missed", "expected"),
    [(5, 45.1, Outcome.CANNOT_TELL), (28, 10.1, Outcome.CANNOT_TELL), (29, 9.8, Outcome.HELD)],
)
def test_no_change_on_a_few_items_holds_nothing(items: int, missed: float, expected: Outcome) -> None:
    still = Estimate(0.0, 0.0, 0.0, items, detectable=missed)
    few = Estimate(0.0, 0.0, 0.0, 3, detectable=63.2)
    found = judge(after(knowmem=still, verbmem=few), RULE)
    assert found.outcome is expected
    if expected is Outcome.CANNOT_TELL:
        assert f"{items} items are not enough to tell" in found.reason


def test_one_measure_with_items_enough_answers_for_one_with_few() -> None:
    few = Estimate(0.0, 0.0, 0.0, 3, detectable=63.2)
    assert outcome(after(verbmem=few)) is Outcome.HELD
    assert outcome(after(verbmem=Estimate(1.0, -40.0, 42.0, 3))) is Outcome.CANNOT_TELL  # something changed


def shares(**values: float | None) -> dict[str, Estimate]:
    return {name: Estimate(value, n=40) for name, value in values.items()}


@pytest.mark.parametrize(
    ("kept", "lost"),
    [
        (shares(knowmem_forget=100.0, verbmem=98.0, utility=99.0), None),
        (shares(knowmem_forget=25.0, utility=25.0), None),  # a quarter is enough to tell
        (shares(knowmem_forget=90.0, utility=4.2), "4 % of its utility"),
        (shares(knowmem_forget=5.0, utility=80.0), "5 % of its knowmem_forget"),
        (shares(knowmem_forget=-2.0, verbmem=3.0), "0 % of its knowmem_forget and 3 % of its verbmem"),
        (shares(knowmem_forget=90.0, verbmem=3.0), None),  # something it knew is still there
        (shares(knowmem_forget=None, verbmem=3.0), "3 % of its verbmem"),
        ({}, None),
    ],
)
def test_what_breaks_the_target(kept: dict[str, Estimate], lost: str | None) -> None:
    why = broken_by(kept, POINTS, RULE)
    if lost is None:
        assert why is None
    else:
        assert why == (
            f"this format breaks the model itself: under it the target keeps {lost}; 25 % are needed "
            "for a verdict."
        )
    assert broken_by(kept, POINTS, Rule(intact=0.0 if lost is None else -5.0)) is None


def test_a_format_that_breaks_the_model_proves_neither_forgetting_nor_return() -> None:
    why = broken_by(shares(utility=4.2), POINTS, RULE)
    for evidence in (after(), after(about(20.0)), after(retention={"knowmem_forget": about(95.0)})):
        verdict = judge(replace(evidence, broken=why), RULE)
        assert verdict.outcome is Outcome.CANNOT_TELL
        assert verdict.reason.startswith("this format breaks the model itself")


def against(rise: Estimate, kept: float = 105.0) -> dict[str, AgainstTarget]:
    """The target fell from 82.0 to 40.0 points; the model had 49 % of it at full precision."""
    return {
        "knowmem_forget": AgainstTarget(rise=rise, kept_full=Estimate(49.0), kept=Estimate(kept), cost=42.0)
    }


def test_all_the_target_knows_there_has_come_back_without_a_point_more() -> None:
    # 40.2 of 82.0 are 49 %, 41.8 of 40.0 are 105 %: 1.6 points more, and (105 - 49) % of 82.0 are 45.9.
    found = after(about(1.6), against_target=against(Estimate(45.9, 30.1, 61.0, 60)))
    verdict = judge(found, RULE)
    assert verdict.outcome is Outcome.CAME_BACK
    assert verdict.reason == (
        "knowmem_forget rose from 49 % of the target's at full precision to 105 % under this condition, "
        "which costs the target 42.0 points: +45.9 [+30.1, +61.0] points against the target (5 count as "
        "recovery)."
    )
    assert outcome(replace(found, against_target={})) is Outcome.HELD


@pytest.mark.parametrize(
    ("rise", "expected"),
    [
        (Estimate(5.0, 0.1, 9.0, 50), Outcome.CAME_BACK),
        (Estimate(4.9, 0.1, 9.0, 50), Outcome.HELD),
        (Estimate(6.0, -0.1, 9.0, 50), Outcome.CANNOT_TELL),
        (Estimate(0.0, -9.0, 10.0, 50), Outcome.CANNOT_TELL),
        (Estimate(0.0, -9.0, 9.9, 50), Outcome.HELD),
        (Estimate(0.0, n=1, reason="one item"), Outcome.CANNOT_TELL),
        (Estimate(None, reason="undefined"), Outcome.HELD),  # the plain rise decides
    ],
)
def test_against_the_target_by_size_and_interval(rise: Estimate, expected: Outcome) -> None:
    assert outcome(after(against_target=against(rise))) is expected


def test_what_is_held_says_how_it_stands_against_the_target() -> None:
    verdict = judge(after(against_target=against(Estimate(0.8, -3.0, 4.0, 50), kept=50.0)), RULE)
    assert "from 49 % of the target's at full precision to 50 % under this condition" in verdict.reason


def test_no_more_than_the_retrained_model_is_no_return_against_the_target_either() -> None:
    found = after(
        against_target=against(Estimate(45.9, 30.1, 61.0, 60)), unknowing=frozenset(["knowmem_forget"])
    )
    assert outcome(found) is Outcome.HELD


def metric(role: str, scale: str = "0-100", *, lower: bool | None = True) -> Metric:
    kind = type(
        "Kind", (metrics["knowmem_forget"],), {"role": role, "scale": scale, "lower_is_better": lower}
    )
    found = kind()
    assert isinstance(found, Metric)
    return found


@pytest.mark.parametrize(
    ("role", "scale", "points"),
    [
        ("knowledge", "0-100", 5.0),
        ("verbatim", "0-100", 10.0),
        ("knowledge", "0-1", 0.05),  # the same share of another scale
        ("verbatim", "-1 to 1", 0.2),
        ("verbatim", "1-5", 0.4),
        ("knowledge", "bits", None),  # no end to take a share of
        ("utility", "0-100", None),
        ("other", "0-100", None),
    ],
)
def test_points_follow_the_role_and_the_scale(role: str, scale: str, points: float | None) -> None:
    assert RULE.points_of(metric(role, scale)) == points


def test_a_metric_of_which_more_is_better_decides_nothing() -> None:
    assert RULE.points_of(metric("knowledge", lower=False)) is None


def test_knowledge_decides_before_wording_whatever_the_order_of_the_metrics() -> None:
    named = {"wording": metric("verbatim"), "useful": metric("utility"), "facts": metric("knowledge")}
    assert list(RULE.deciding(named)) == ["facts", "wording"]
