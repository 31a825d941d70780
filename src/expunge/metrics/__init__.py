"""Metrics: what is measured of one model, item by item, and how items become one number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.registry import Registry

if TYPE_CHECKING:
    from expunge.metrics.base import Metric, MetricRole

metrics: Registry[Metric] = Registry("metric", "expunge.metrics")


def standard_metric(role: MetricRole) -> Metric:
    """The package's own default metric of a role, by which a training run measures itself."""
    own = (metrics[name] for name in metrics if metrics[name].__module__.startswith(__name__))
    return next(metric() for metric in own if metric.role is role and metric.default)
