from __future__ import annotations

import numpy as np
import pytest

from expunge.audit.compare import NO_CONTROL, Comparison, Reading, align
from expunge.audit.stats import Bootstrap
from expunge.metrics import metrics
from expunge.types import Score

KNOWMEM = Comparison(metrics.build({"name": "knowmem_forget"}), Bootstrap(resamples=2000))
PRIVLEAK = Comparison(metrics.build({"name": "privleak"}), Bootstrap(resamples=2000))


def forget(*values: float | None, groups: list[str] | None = None) -> Reading:
    rows = [
        Score(
            item=f"i{n}",
            value=value,
            group=groups and groups[n],
            unscored=None if value is not None else "why not",
        )
        for n, value in enumerate(values)
    ]
    return Reading(scores={"forget": rows})


def leak(
    forget_values: list[float], holdout_values: list[float], control: Reading | None = None
) -> Reading:
    scores = {
        split: [Score(item=f"{split}{n}", value=value) for n, value in enumerate(values)]
        for split, values in (("forget", forget_values), ("holdout", holdout_values))
    }
    return Reading(scores=scores, control=control and control.scores)


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
    turned = Reading(scores={"forget": list(reversed(right.scores["forget"]))})
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
    auc = Comparison(metrics.build({"name": "auc"}), Bootstrap(resamples=2000)).value(near)
    # Nearly the same model: the paired ratio is far surer than either AUC.
    assert estimate.high - estimate.low < 0.2 * 100 * (auc.high - auc.low) / auc.value
    assert estimate.low <= estimate.value <= estimate.high


def test_privleak_recovery_uses_each_transforms_own_control() -> None:
    control_full, control_int4 = leak([1.0, 3.0], [0.0, 2.0]), leak([1.0, 3.0], [0.0, 4.0])
    full = leak([9.0, 9.0], [0.0, 2.0], control=control_full)  # AUC 1 over .75
    int4 = leak([9.0, 9.0], [0.0, 4.0], control=control_int4)  # AUC 1 over .5
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
    compare = Comparison(metrics.build({"name": "auc"}), Bootstrap(resamples=99))
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
