from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from expunge.audit.statistics.significance import over_seeds, spread_over_seeds
from expunge.metrics.base import Floats


def every_resample(scores_SU: Floats) -> Floats:
    """The mean of each seed, then under every way to draw the units: the bootstrap without chance."""
    units = scores_SU.shape[1]
    draws = np.array(list(product(range(units), repeat=units)))
    return np.hstack([scores_SU.mean(1, keepdims=True), scores_SU[:, draws].mean(-1)])


def test_hand_worked() -> None:
    # Items 1, 4, 7 on average (variance 9 over 3), seeds 3 and 5 (variance 2 over 2), nothing between.
    spread = spread_over_seeds(every_resample(np.array([[0.0, 3.0, 6.0], [2.0, 5.0, 8.0]])), units=3)
    assert spread.variance == pytest.approx(3 + 1)
    assert spread.freedom == pytest.approx(4**2 / (3**2 / 2 + 1**2 / 1))


def test_what_items_do_differently_to_each_seed_is_not_counted_twice() -> None:
    # The residuals are all ±1.5: mean square 9 over 4, more than the items' and the seeds' 0.25 each.
    spread = spread_over_seeds(every_resample(np.array([[0.0, 4.0], [2.0, 0.0]])), units=2)
    assert spread.variance == pytest.approx(0.25)  # never below either


def test_it_is_the_analysis_of_variance() -> None:
    scores = np.random.default_rng(1).normal(size=(4, 5)) + np.arange(4)[:, None] + 3 * np.arange(5)
    seeds, units = scores.shape
    grand, by_seed, by_item = scores.mean(), scores.mean(1, keepdims=True), scores.mean(0, keepdims=True)
    between = units * ((by_seed - grand) ** 2).sum() / (seeds - 1)
    items = seeds * ((by_item - grand) ** 2).sum() / (units - 1)
    rest = ((scores - by_seed - by_item + grand) ** 2).sum() / ((seeds - 1) * (units - 1))
    spread = spread_over_seeds(every_resample(scores), units)
    assert spread.variance == pytest.approx((items + between - rest) / (seeds * units))
    doubt = items**2 / (units - 1) + between**2 / (seeds - 1) + rest**2 / ((seeds - 1) * (units - 1))
    assert spread.freedom == pytest.approx((items + between - rest) ** 2 / doubt)


def test_interval_p_and_detectable_use_the_t_distribution() -> None:
    values = every_resample(np.array([[0.0, 3.0, 6.0], [2.0, 5.0, 8.0]]))
    estimate = over_seeds(values, n=3, units=3, is_difference=True)
    student = stats.t(4**2 / 5.5)
    assert estimate.value == pytest.approx(4.0)
    assert (estimate.low, estimate.high) == pytest.approx(
        (4 - 2 * student.ppf(0.975), 4 + 2 * student.ppf(0.975))
    )
    assert estimate.p == pytest.approx(2 * student.sf(2))
    assert estimate.detectable == pytest.approx(2 * (student.ppf(0.975) + student.ppf(0.8)))
    assert over_seeds(values, n=3, units=3).p is None


@pytest.mark.parametrize(
    ("seed_spread", "item_spread", "rest"), [(0.0, 10.0, 10.0), (5.0, 10.0, 10.0), (10.0, 10.0, 5.0)]
)
def test_coverage_of_the_95_percent_interval(seed_spread: float, item_spread: float, rest: float) -> None:
    chance, seeds, units, audits = np.random.default_rng(7), 3, 30, 300
    weights = chance.multinomial(units, np.full(units, 1 / units), size=300) / units
    inside = 0
    for _ in range(audits):
        scores = (
            50
            + chance.normal(0, seed_spread, (seeds, 1))
            + chance.normal(0, item_spread, (1, units))
            + chance.normal(0, rest, (seeds, units))
        )
        values = np.hstack([scores.mean(1, keepdims=True), scores @ weights.T])
        estimate = over_seeds(values, n=units, units=units)
        inside += estimate.low <= 50 <= estimate.high
    low, high = stats.binom.ppf([0.0005, 0.9995], audits, 0.95)
    assert low <= inside <= high


def test_three_seeds_drawn_out_of_three_would_not_do() -> None:
    """Why no bootstrap over seeds: with a spread between seeds it holds the truth far too seldom."""
    chance, seeds, audits = np.random.default_rng(3), 3, 300
    inside = 0
    for _ in range(audits):
        means = 50 + chance.normal(0, 5.0, seeds)
        drawn = means[chance.integers(seeds, size=(400, seeds))].mean(-1)
        low, high = np.percentile(drawn, [2.5, 97.5])
        inside += low <= 50 <= high
    assert inside < 0.85 * audits


def test_seeds_that_agree_in_everything() -> None:
    estimate = over_seeds(np.full((3, 9), 7.0), n=5, units=5, is_difference=True)
    assert (estimate.value, estimate.low, estimate.high, estimate.p) == (7.0, 7.0, 7.0, 0.0)
    assert over_seeds(np.zeros((3, 9)), n=5, units=5, is_difference=True).p == 1.0


@pytest.mark.parametrize(
    ("values", "units", "reason"),
    [
        ([[1.0, 1.0], [np.nan, 1.0]], 5, "undefined for a seed"),
        ([[1.0, 1.0], [2.0, np.inf]], 5, "some resamples"),
        ([[1.0, 1.0], [2.0, 2.0]], 1, "no spread"),
    ],
)
def test_no_interval_without_a_reason(values: list[list[float]], units: int, reason: str) -> None:
    estimate = over_seeds(np.array(values), n=units, units=units)
    assert estimate.low is None
    assert reason in estimate.reason
