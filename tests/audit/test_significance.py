from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from expunge.audit.statistics import significance as module
from expunge.audit.statistics.significance import exchanged, permutation_p, same_distribution_p, swaps
from expunge.metrics.base import Floats, Weights


def means(first: list[float], second: list[float]) -> object:
    """The difference of two means, as a function of who holds which score."""
    both = np.array([*first, *second])

    def difference(one: Weights, other: Weights) -> Floats:
        found: Floats = (one["s"] - other["s"]) @ both / len(first)
        return found

    return difference


def p_of(differences: list[float], labels: list[object] | None = None) -> float | None:
    clusters = {"s": labels or list(range(len(differences)))}
    return permutation_p(means(differences, [0.0] * len(differences)), clusters)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1.0, 2.0, 3.0], 2 / 8),  # only all signs alike are as far out
        ([1.0, 1.0, 1.0, 1.0, -1.0], 12 / 32),  # five alike (2 ways) or four (10)
        ([0.0, 0.0, 0.0], 1.0),
        ([5.0], 1.0),
        ([0.1] * 9, 2 / 512),
    ],
)
def test_few_items_are_counted_exactly(differences: list[float], p: float) -> None:
    assert p_of(differences) == pytest.approx(p)


def test_clusters_change_places_as_a_whole() -> None:
    assert p_of([1.0, 1.0, 1.0, 1.0], ["a", "a", "b", "b"]) == pytest.approx(2 / 4)


def test_many_items_are_drawn_and_the_observed_order_counts() -> None:
    assert p_of([1.0] * 20) == pytest.approx(1 / 1000)


def test_drawn_ones_agree_with_scipy() -> None:
    differences = np.random.default_rng(2).normal(0.3, 1.0, size=40)
    theirs = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=9_999, rng=np.random.default_rng(0)
    ).pvalue
    assert p_of(differences.tolist()) == pytest.approx(theirs, abs=0.04)


def test_false_alarms_are_as_rare_as_promised() -> None:
    chance = np.random.default_rng(9)
    alarms = sum((p_of(chance.normal(0, 1, 9).tolist()) or 0.0) <= 0.05 for _ in range(400))
    low, high = stats.binom.ppf([0.0005, 0.9995], 400, 25 / 512)  # the largest level below 0.05 there is
    assert low <= alarms <= high


@given(st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=8))
def test_the_direction_does_not_matter(differences: list[float]) -> None:
    assert p_of(differences) == pytest.approx(p_of([-each for each in differences]))
    assert 0 < (p_of(differences) or 0.0) <= 1


def test_undefined_differences_have_no_p() -> None:
    assert permutation_p(lambda one, other: np.full(len(one["s"]), np.nan), {"s": [1, 2, 3]}) is None


def test_every_order_is_there_once_in_whatever_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 24)
    turns = list(swaps({"b": [0, 1], "a": ["x", "x", "y"]}, permutations=99, seed=0))
    assert len(turns) > 1
    rows = np.concatenate([np.hstack([turn["a"], turn["b"]]) for turn in turns])
    assert len(np.unique(rows, axis=0)) == len(rows) == 2**4
    assert not rows[0].any()
    assert (rows[:, 0] == rows[:, 1]).all()


def test_each_score_is_held_by_one_of_the_two() -> None:
    seen: list[tuple[Floats, Floats]] = []

    def difference(one: Weights, other: Weights) -> Floats:
        seen.append((one["s"], other["s"]))
        return np.zeros(len(one["s"]))

    permutation_p(difference, {"s": range(3)})
    first, second = seen[0]
    assert (first + second == 1).all()
    assert (first.sum(1) == 3).all()
    assert first[0].tolist() == [1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("items", "p"), [(2, 1 / 3), (20, 1.450889e-11), (200, 1.9426e-119), (400, 1.0636e-239)]
)
def test_disjoint_samples_have_the_published_p(items: int, p: float) -> None:
    # 2 / C(2n, n): what TOFU's forget quality says of a model that collapsed on 200 or 400 questions.
    assert same_distribution_p(np.arange(items) + 0.0, np.arange(items) + 1e6) == pytest.approx(p, rel=1e-4)


def test_the_same_sample() -> None:
    assert same_distribution_p(np.arange(9.0), np.arange(9.0)) == pytest.approx(1.0)


def test_where_the_exact_ks_distribution_fails_the_limit_answers() -> None:
    # SciPy gives up on its exact count here, and warns; warnings are errors in these tests.
    assert same_distribution_p(np.array([0.0, 0, 0, 0, 1]), np.zeros(5)) == pytest.approx(1.0)


def test_few_groups_change_places_item_by_item() -> None:
    # Nine groups have 512 orders: no p-value of theirs survives a correction for a table of thirty tests.
    nine, ten = ([f"g{number // 4}" for number in range(4 * groups)] for groups in (9, 10))
    assert exchanged({"s": ten}) == {"s": ten}
    assert exchanged({"s": nine}) == {"s": list(range(36))}
    assert exchanged({"s": ["x"] * 5}) == {"s": [0, 1, 2, 3, 4]}  # five items stay five
    assert exchanged({"s": ten, "t": nine}) == {"s": list(range(40)), "t": list(range(36))}
