from __future__ import annotations

import numpy as np
import pytest

from expunge.audit.statistics.bootstrap import Bootstrap
from expunge.audit.statistics.significance import detectable, unseen


def test_hand_worked() -> None:
    # Spread 1, times sqrt(2/1) for two units, times 1.959964 + 0.841621.
    assert detectable(np.array([-1.0, 1.0]), 2) == pytest.approx(2.801585 * 2**0.5, abs=1e-5)
    assert detectable(np.array([4.0, 6.0]), 100) == pytest.approx(2.801585 * (100 / 99) ** 0.5, abs=1e-5)


def test_it_is_the_textbook_one_for_a_mean_of_differences() -> None:
    differences = np.random.default_rng(0).normal(3, 20, size=80)
    found = Bootstrap(resamples=20_000).resample(
        lambda weights: weights["s"] @ differences / 80, {"s": range(80)}
    )
    textbook = 2.801585 * differences.std(ddof=1) / 80**0.5
    assert detectable(found[1:], 80) == pytest.approx(textbook, rel=0.02)


def test_four_of_five_audits_show_it() -> None:
    chance = np.random.default_rng(5)
    smallest = 2.801585 * 10 / 50**0.5  # of differences that scatter by 10
    shown = 0
    for seed in range(200):
        drawn = chance.normal(smallest, 10, size=50)
        estimate = Bootstrap(resamples=300, seed=seed).estimate(
            lambda weights, drawn=drawn: weights["s"] @ drawn / 50, {"s": range(50)}
        )
        shown += estimate.low > 0
    assert 143 <= shown <= 176  # 160 ± 3 standard deviations


@pytest.mark.parametrize(("units", "share"), [(1, 0.95), (3, 0.63160), (59, 0.04951), (100, 0.02951)])
def test_what_none_of_so_many_leaves_open(units: int, share: float) -> None:
    assert unseen(units) == pytest.approx(share, abs=1e-5)
    assert (1 - unseen(units)) ** units == pytest.approx(0.05)


def test_without_spread_the_number_of_items_decides() -> None:
    same = np.full(99, 7.0)
    assert detectable(same, 100, span=100.0) == pytest.approx(2.951, abs=1e-3)
    assert detectable(same, 6, items=100, span=100.0) == pytest.approx(2.951, abs=1e-3)  # not the groups
    assert detectable(same, 100) is None  # how far scores can go is not known


def test_undefined() -> None:
    assert detectable(np.array([1.0, np.nan]), 5, span=1.0) is None
    assert detectable(np.array([1.0, 2.0]), 1, span=1.0) is None
