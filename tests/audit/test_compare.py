from __future__ import annotations

import numpy as np
import pytest

from expunge.audit.statistics.bootstrap import Bootstrap
from expunge.audit.statistics.compare import NO_CONTROL, Compared, ModelComparison, ScoreTable, align
from expunge.metrics import metrics
from expunge.types import Score

KNOWMEM = ModelComparison(metrics.build({"name": "knowmem_forget"}), Bootstrap(resamples=2000))
PRIVLEAK = ModelComparison(metrics.build({"name": "privleak"}), Bootstrap(resamples=2000))


def forget(*values: float | None, groups: list[str] | None = None) -> ScoreTable:
    rows = [
        Score(
            item=f"i{n}",
            value=value,
            group=groups and groups[n],
            unscored=None if value is not None else "why not",
        )
        for n, value in enumerate(values)
    ]
    return ScoreTable(scores={"forget": rows})


def leak(
    forget_values: list[float], holdout_values: list[float], control: ScoreTable | None = None
) -> ScoreTable:
    scores = {
        split: [Score(item=f"{split}{n}", value=value) for n, value in enumerate(values)]
        for split, values in (("forget", forget_values), ("holdout", holdout_values))
    }
    return ScoreTable(scores=scores, control=control and control.scores)


def noisy(seed: int, n: int = 50) -> list[float]:
    return np.random.default_rng(seed).uniform(0, 100, n).tolist()


def test_retention_of_the_published_numbers() -> None:
    # GA_KLR on BOOKS, VerMem: 13.0 of 99.8 at full precision, 75.6 of 85.3 at 4 bits.
    assert KNOWMEM.retention(forget(13.0, 13.0), forget(99.8, 99.8)).value == pytest.approx(13.0, abs=0.05)
    assert KNOWMEM.retention(forget(75.6), forget(85.3)).value == pytest.approx(88.6, abs=0.05)


def test_retention_of_the_target_itself_is_exactly_100() -> None:
    same = forget(*noisy(0))
    estimate = KNOWMEM.retention(same, same)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((100.0, 100.0, 100.0))
    assert KNOWMEM.retention(forget(0.0, 0.0), forget(5.0, 9.0)).value == 0.0


def test_retention_of_a_target_that_knows_nothing_is_undefined() -> None:
    estimate = KNOWMEM.retention(forget(1.0, 2.0), forget(0.0, 0.0))
    assert estimate.value is None
    assert "0" in estimate.reason
    assert KNOWMEM.retention(forget(0.0, 0.0), forget(0.0, 0.0)).value is None


def test_recovery_is_paired() -> None:
    # Items differ widely, the rise is 7 for each: only the paired interval sees that.
    full = noisy(1)
    estimate = KNOWMEM.recovery(forget(*(value + 7 for value in full)), forget(*full))
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((7.0, 7.0, 7.0))
    assert KNOWMEM.value(forget(*full)).high - KNOWMEM.value(forget(*full)).low > 10


def test_only_items_scored_by_both_are_compared() -> None:
    estimate = KNOWMEM.recovery(forget(10.0, None, 30.0, 99.0), forget(10.0, 50.0, 20.0, None))
    assert estimate.value == pytest.approx(5.0)
    assert estimate.n == 2


def test_order_of_the_items_does_not_matter() -> None:
    left, right = forget(10.0, 20.0, 60.0), forget(1.0, 2.0, 3.0)
    turned = ScoreTable(scores={"forget": list(reversed(right.scores["forget"]))})
    assert KNOWMEM.recovery(left, right) == KNOWMEM.recovery(left, turned)


def test_no_common_item_gives_the_reason() -> None:
    estimate = KNOWMEM.recovery(forget(None, None), forget(1.0, 2.0))
    assert (estimate.value, estimate.reason) == (None, "why not")


def test_groups_widen_the_interval() -> None:
    people = np.random.default_rng(5).uniform(0, 100, 10)
    values = np.repeat(people, 5).tolist()
    alone = KNOWMEM.value(forget(*values))
    grouped = KNOWMEM.value(forget(*values, groups=[f"p{n // 5}" for n in range(50)]))
    assert grouped.value == pytest.approx(alone.value)
    assert grouped.high - grouped.low > 1.7 * (alone.high - alone.low)  # about sqrt(5)


def test_an_item_is_never_mistaken_for_a_group_of_that_name() -> None:
    rows = [Score(item="a", value=1.0, group="b"), Score(item="b", value=2.0)]
    assert len(set(align([{"forget": rows}]).clusters["forget"])) == 2


def test_privleak_without_a_retrained_model_says_so() -> None:
    estimate = PRIVLEAK.value(leak([0.0, 1.0], [2.0, 3.0]))
    assert (estimate.value, estimate.reason) == (None, NO_CONTROL)


def test_privleak_of_the_retrained_model_is_exactly_zero() -> None:
    retrained = leak(noisy(1, 20), noisy(2, 20))
    own = leak(noisy(1, 20), noisy(2, 20), control=retrained)
    estimate = PRIVLEAK.value(own)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)


def test_privleak_resamples_model_and_control_together() -> None:
    retrained = leak(noisy(1, 30), noisy(2, 30))
    near = leak([value + 0.5 for value in noisy(1, 30)], noisy(2, 30), control=retrained)
    estimate = PRIVLEAK.value(near)
    auc = ModelComparison(metrics.build({"name": "auc"}), Bootstrap(resamples=2000)).value(near)
    # Nearly the same model: the paired ratio is far surer than either AUC.
    assert estimate.high - estimate.low < 0.2 * 100 * (auc.high - auc.low) / auc.value
    assert estimate.low <= estimate.value <= estimate.high


def test_privleak_recovery_uses_each_transforms_own_control() -> None:
    forget, control_full, control_int4 = [1.0, 3.0] * 20, [0.0, 2.0] * 20, [0.0, 4.0] * 20
    full = leak([9.0] * 40, control_full, control=leak(forget, control_full))  # AUC 1 over .75
    int4 = leak([9.0] * 40, control_int4, control=leak(forget, control_int4))  # AUC 1 over .5
    assert PRIVLEAK.recovery(int4, full).value == pytest.approx(100 - 100 / 3)


def test_a_difference_says_how_likely_chance_is_and_what_it_could_show() -> None:
    # Eight items, each 3 points up: only all signs alike are as far out.
    estimate = KNOWMEM.recovery(forget(*[13.0] * 8), forget(*[10.0] * 8))
    assert estimate.p == pytest.approx(2 / 2**8)
    assert estimate.detectable == pytest.approx(100 * (1 - 0.05 ** (1 / 8)))  # no spread: 8 items
    assert KNOWMEM.value(forget(1.0, 2.0)).p is None
    assert KNOWMEM.retention(forget(1.0, 2.0), forget(1.0, 2.0)).detectable is None


def test_excess_over_the_retrained_model_is_paired() -> None:
    control = noisy(1)
    estimate = KNOWMEM.excess(forget(*(value + 7 for value in control)), forget(*control))
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((7.0, 7.0, 7.0))


def test_the_test_of_an_auc_swaps_texts_of_both_splits() -> None:
    compare = ModelComparison(metrics.build({"name": "auc"}), Bootstrap(resamples=99))
    low, high = leak([1.0, 2.0], [8.0, 9.0]), leak([8.0, 9.0], [1.0, 2.0])
    # AUC 1 against 0: of the 16 ways to swap four texts only none and all are as far out.
    assert compare.recovery(low, high).p == pytest.approx(2 / 16)
    assert compare.recovery(low, low).p == 1.0


def test_seeds_are_compared_one_by_one_and_then_averaged() -> None:
    seeds = [forget(10.0, 30.0, 50.0), forget(20.0, 40.0, 60.0)]
    target = forget(100.0, 100.0, 100.0)
    assert KNOWMEM.value(seeds).value == pytest.approx(35.0)
    assert KNOWMEM.retention(seeds, target).value == pytest.approx(35.0)
    full = [forget(5.0, 25.0, 45.0), forget(5.0, 25.0, 45.0)]
    recovery = KNOWMEM.recovery(seeds, full)
    assert recovery.value == pytest.approx((5 + 15) / 2)
    # Items say 5 and 15 without any spread; all doubt is between the two seeds: t with one degree.
    assert recovery.high - recovery.value == pytest.approx(12.7062 * 5, rel=1e-3)


def test_the_interval_over_seeds_holds_what_another_seed_would_have_said() -> None:
    alike, apart = [noisy(1), noisy(1)], [noisy(1), [value + 30 for value in noisy(1)]]
    one = KNOWMEM.value(forget(*noisy(1)))
    same = KNOWMEM.value([forget(*values) for values in alike])
    other = KNOWMEM.value([forget(*values) for values in apart])
    assert same.high - same.low == pytest.approx(one.high - one.low, rel=0.05)
    assert other.high - other.low > 3 * (one.high - one.low)


def test_only_items_that_every_seed_scored_count() -> None:
    seeds = [forget(10.0, None, 30.0), forget(10.0, 20.0, 30.0)]
    assert KNOWMEM.value(seeds).n == 2


def test_seeds_of_privleak_share_the_control() -> None:
    retrained = leak(noisy(1, 20), noisy(2, 20))
    own = leak(noisy(1, 20), noisy(2, 20), control=retrained)
    estimate = PRIVLEAK.value([own, own, own])
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)


def test_the_distributions_of_two_models() -> None:
    low, high = forget(*[1.0, 2.0]), forget(*[8.0, 9.0])
    assert KNOWMEM.same_distribution(low, high) == pytest.approx(1 / 3)
    grouped = forget(1.0, 2.0, groups=["a", "a"])
    assert KNOWMEM.same_distribution(grouped, high) is None  # its items are not independent
    assert KNOWMEM.same_distribution([low, low], high) is None
    assert PRIVLEAK.same_distribution(leak([1.0], [2.0]), leak([1.0], [2.0])) is None
    assert KNOWMEM.same_distribution(forget(None, None), high) is None


def test_privleak_of_a_few_texts_is_no_number_and_says_why() -> None:
    control = leak(noisy(1, 4), noisy(2, 4))
    own = leak(noisy(3, 4), noisy(4, 4), control)
    for estimate in (PRIVLEAK.value(own), PRIVLEAK.recovery(own, own)):
        assert estimate.value is estimate.low is None
        assert (estimate.n, estimate.by_split) == (4, {"forget": 4, "holdout": 4})
        assert estimate.reason.startswith("cannot tell: one pair of texts is worth")
        assert "4 forget x 4 holdout texts" in estimate.reason


def test_privleak_has_an_interval_or_no_value() -> None:
    # Of the control's forget texts one alone lies above the holdout texts: without it the AUC is 0.
    control = leak([2.0] + [0.0] * 19, [1.0] * 20)
    own = leak([2.0] * 10 + [0.0] * 10, [1.0] * 20, control)
    estimate = PRIVLEAK.value(own)
    assert (estimate.value, estimate.reason) == (None, "cannot tell: undefined in some resamples")
    assert estimate.by_split == {"forget": 20, "holdout": 20}


def test_the_texts_behind_a_privleak_are_counted_by_split() -> None:
    control = leak(noisy(1, 30), noisy(2, 12))
    estimate = PRIVLEAK.value(leak(noisy(3, 30), noisy(4, 12), control))
    assert estimate.low < estimate.value < estimate.high
    assert (estimate.n, estimate.by_split) == (12, {"forget": 30, "holdout": 12})
    assert KNOWMEM.value(forget(1.0, 2.0)).by_split is None


def test_against_the_target_by_hand() -> None:
    # Full precision: (41 - 10) / (80 - 10) = 44.3 %. Rounded: (35 - 5) / (45 - 5) = 75 %. The rise, 30.7 %,
    # of 70 points is 21.5; the model itself lost 6.
    full = Compared(*(forget(value, value) for value in (41.0, 80.0, 10.0)))
    now = Compared(*(forget(value, value) for value in (35.0, 45.0, 5.0)))
    assert KNOWMEM.retention_over_control(full).value == pytest.approx(44.2857, abs=1e-4)
    assert KNOWMEM.retention_over_control(now).value == pytest.approx(75.0)
    assert KNOWMEM.recovery_against_target(now, full).value == pytest.approx(21.5)
    assert KNOWMEM.retention_of_target(now[1:], full[1:]).value == pytest.approx(100 * 40 / 70)
    alone, alone_full = now._replace(retrained=None), full._replace(retrained=None)
    assert KNOWMEM.retention_over_control(alone).value == pytest.approx(100 * 35 / 45)
    rise = KNOWMEM.recovery_against_target(alone, alone_full)
    assert rise.value == pytest.approx((35 / 45 - 41 / 80) * 80)
    assert KNOWMEM.retention_of_target(alone[1:], alone_full[1:]).value == pytest.approx(100 * 45 / 80)


def test_where_neither_target_nor_control_changes_a_rise_against_the_target_is_the_rise() -> None:
    target, control = forget(*(100.0,) * 50), forget(*(20.0,) * 50)
    full, now = forget(*noisy(5)), forget(*noisy(6))
    against = KNOWMEM.recovery_against_target(
        Compared(now, target, control), Compared(full, target, control)
    )
    plain = KNOWMEM.recovery(now, full)
    assert (against.value, against.low, against.high) == pytest.approx((plain.value, plain.low, plain.high))


def test_a_recipe_s_rise_against_the_target_is_the_mean_of_its_seeds() -> None:
    target, rounded, control = forget(*noisy(7)), forget(*(v / 2 for v in noisy(7))), forget(*(1.0,) * 50)
    seeds = [forget(*noisy(seed)) for seed in (8, 9)]
    one_by_one = [
        KNOWMEM.recovery_against_target(Compared(seed, rounded, control), Compared(seed, target, control))
        for seed in seeds
    ]
    both = KNOWMEM.recovery_against_target(
        Compared(seeds, rounded, control), Compared(seeds, target, control)
    )
    assert both.value == pytest.approx(sum(each.value for each in one_by_one) / 2)
    assert both.low < both.value < both.high
