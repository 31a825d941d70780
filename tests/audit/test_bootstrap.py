from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from expunge.audit.statistics import bootstrap as module
from expunge.audit.statistics.bootstrap import Bootstrap, Estimate
from expunge.metrics.base import Floats, Weights

ITEMS = {"s": list(range(30))}


def mean_of(values: Floats):
    return lambda weights: (weights["s"] @ values) / weights["s"].sum(-1)


@pytest.fixture
def sample() -> Floats:
    return np.random.default_rng(3).gamma(2.0, 10.0, size=30)


def test_value_is_the_statistic_of_all_items(sample: Floats) -> None:
    estimate = Bootstrap().estimate(mean_of(sample), ITEMS)
    assert estimate.value == pytest.approx(sample.mean())
    assert estimate.n == 30
    assert estimate.reason is None


def test_interval_agrees_with_scipy(sample: Floats) -> None:
    ours = Bootstrap(resamples=9_999).estimate(mean_of(sample), ITEMS)
    theirs = stats.bootstrap(
        (sample,), np.mean, method="percentile", n_resamples=9_999, rng=np.random.default_rng(0)
    ).confidence_interval
    # Both are Monte-Carlo: their ends scatter by a few percent of the interval's width.
    assert (ours.low, ours.high) == pytest.approx(
        (theirs.low, theirs.high), abs=0.05 * (theirs.high - theirs.low)
    )


def test_exact_small_case() -> None:
    # Items 0 and 1: the resample means are 0, ½, 1 with chances ¼, ½, ¼.
    found = Bootstrap(resamples=20_000).resample(mean_of(np.array([0.0, 1.0])), {"s": ["a", "b"]})[1:]
    assert {value: np.mean(found == value) for value in (0.0, 0.5, 1.0)} == pytest.approx(
        {0.0: 0.25, 0.5: 0.5, 1.0: 0.25}, abs=0.015
    )
    assert len(found) == 20_000


def test_same_seed_same_interval_other_seed_other_interval(sample: Floats) -> None:
    first, again, other = (
        Bootstrap(resamples=500, seed=seed).estimate(mean_of(sample), ITEMS) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_chunks_bound_memory_and_cover_every_resample(
    sample: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 100)
    seen: list[int] = []

    def statistic(weights: Weights) -> Floats:
        seen.append(weights["s"].size)
        return mean_of(sample)(weights)

    found = Bootstrap(resamples=1000).resample(statistic, ITEMS)
    assert len(found) == 1001  # all items first
    assert found[0] == pytest.approx(sample.mean())
    assert max(seen) <= 100
    # Chunks are different draws, with the spread a mean of 30 has.
    assert len(np.unique(found)) > 900
    assert found.std() == pytest.approx(sample.std() / np.sqrt(30), rel=0.15)


def test_clusters_come_and_go_together() -> None:
    # 15 people with 2 equal items each carry as much as 15 items: the interval must be that of 15.
    people = np.random.default_rng(0).normal(size=15)
    items, labels = np.repeat(people, 2), [n // 2 for n in range(30)]
    clustered = Bootstrap(resamples=4000).resample(mean_of(items), {"s": labels})
    naive = Bootstrap(resamples=4000).resample(mean_of(items), ITEMS)
    assert clustered.std() == pytest.approx(people.std() / np.sqrt(15), rel=0.1)
    assert clustered.std() > 1.25 * naive.std()


def test_every_resample_draws_as_many_clusters_as_there_are() -> None:
    labels = ["a", "a", "a", "b"]
    seen: list[Weights] = []

    def statistic(weights: Weights) -> Floats:
        seen.append(weights)
        return mean_of(np.ones(4))(weights)

    Bootstrap(resamples=50).resample(statistic, {"s": labels})
    weights = seen[0]["s"]
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 0] + weights[:, 3] == 2).all()


def test_splits_are_drawn_apart() -> None:
    def statistic(weights: Weights) -> Floats:
        return (weights["a"] * weights["b"]).sum(-1)

    found = Bootstrap(resamples=4000).resample(statistic, {"a": range(20), "b": range(20)})
    assert found.mean() == pytest.approx(20, rel=0.05)  # 20·E[w]·E[w]; the same draw would give about 39


def test_coverage_of_the_95_percent_interval() -> None:
    chance = np.random.default_rng(11)
    inside = 0
    for seed in range(200):
        drawn = chance.exponential(10.0, size=60)
        estimate = Bootstrap(resamples=400, seed=seed).estimate(mean_of(drawn), {"s": range(60)})
        inside += estimate.low <= 10.0 <= estimate.high
    assert 178 <= inside <= 198  # skewed data: a little under 95 %


def test_coverage_of_the_interval_over_groups_and_of_one_that_ignores_them() -> None:
    chance, people, each = np.random.default_rng(4), 50, 4
    labels = {"s": [n // each for n in range(people * each)]}
    alone = {"s": range(people * each)}
    inside = {"groups": 0, "items": 0}
    for seed in range(300):
        drawn = np.repeat(chance.normal(10, 3, people), each) + chance.normal(0, 1, people * each)
        for name, clusters in (("groups", labels), ("items", alone)):
            estimate = Bootstrap(resamples=300, seed=seed).estimate(mean_of(drawn), clusters)
            inside[name] += estimate.low <= 10 <= estimate.high
    low, high = stats.binom.ppf([0.0005, 0.9995], 300, 0.95)
    assert low <= inside["groups"] <= high
    assert inside["items"] < 0.8 * 300  # four questions about one person are not four people


def test_no_items_no_value() -> None:
    assert Bootstrap().estimate(mean_of(np.array([])), {"s": []}) == Estimate(
        None, reason="no item has a score"
    )
    assert Bootstrap().estimate(mean_of(np.array([])), {"s": [1], "t": []}).value is None


@pytest.mark.parametrize("labels", [["only"], ["one", "one", "one"]])
def test_one_item_or_group_has_a_value_and_no_interval(labels: list[str]) -> None:
    estimate = Bootstrap().estimate(mean_of(np.full(len(labels), 7.0)), {"s": labels})
    assert (estimate.value, estimate.low, estimate.high, estimate.n) == (7.0, None, None, len(labels))
    assert "spread" in estimate.reason


def test_n_is_the_smaller_splits() -> None:
    statistic = lambda weights: weights["a"].sum(-1) + weights["b"].sum(-1)  # noqa: E731
    assert Bootstrap(resamples=9).estimate(statistic, {"a": range(3), "b": range(5)}).n == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_undefined_is_none(bad: float) -> None:
    estimate = Bootstrap().estimate(lambda weights: np.full(len(weights["s"]), bad), ITEMS)
    assert (estimate.value, estimate.low) == (None, None)
    assert "undefined" in estimate.reason


def test_undefined_in_a_resample_has_no_interval() -> None:
    def statistic(weights: Weights) -> Floats:  # undefined whenever the first item is not drawn
        first = weights["s"][:, 0]
        return np.where(first > 0, first, np.nan)

    estimate = Bootstrap(resamples=200).estimate(statistic, ITEMS)
    assert (estimate.value, estimate.low, estimate.high) == (1.0, None, None)
    assert "some resamples" in estimate.reason
