from __future__ import annotations

import numpy as np
import pytest

from expunge.metrics import metrics
from expunge.metrics.base import Metric, not_applicable
from expunge.types import Score

FIRST = {"auc", "knowmem_forget", "neighbours", "privleak", "paraphrase_questions", "utility", "verbmem"}


def scores(*values: float | None) -> list[Score]:
    return [
        Score(item=f"i{n}", value=value, unscored=None if value else "why")
        for n, value in enumerate(values)
    ]


def test_every_metric_is_registered_and_says_what_it_is() -> None:
    assert set(metrics) >= FIRST
    for name in metrics:
        metric = metrics[name]
        assert metric.title
        assert metric.definition
        assert metric.source


def test_a_metric_must_measure() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Metric()  # type: ignore[abstract]


def test_default_statistic_is_the_mean_of_each_resample() -> None:
    metric = metrics.build({"name": "utility"})
    values = {"retain": np.array([10.0, 20.0, 60.0])}
    weights = {"retain": np.array([[1.0, 1.0, 1.0], [3.0, 0.0, 0.0], [0.0, 1.0, 3.0]])}
    assert metric.statistic(values, weights) == pytest.approx([30.0, 10.0, 50.0])


def test_point_leaves_out_what_has_no_score() -> None:
    metric = metrics.build({"name": "utility"})
    assert metric.point_estimate({"retain": scores(10.0, None, 30.0)}) == pytest.approx(20.0)


def test_point_is_none_where_nothing_is_scored() -> None:
    metric = metrics.build({"name": "utility"})
    assert metric.point_estimate(not_applicable("retain", "no questions")) is None


def test_point_needs_the_control_a_metric_asks_for() -> None:
    metric = metrics.build({"name": "privleak"})
    own = {"forget": scores(1.0, 2.0), "holdout": scores(1.0, 2.0)}
    assert metric.point_estimate(own) is None
    assert metric.point_estimate(own, own) == pytest.approx(0.0)
    # A retrained AUC of 0 leaves PrivLeak undefined: no value, not infinity.
    assert metric.point_estimate(own, {"forget": scores(1.0, 2.0), "holdout": scores(8.0, 9.0)}) is None
