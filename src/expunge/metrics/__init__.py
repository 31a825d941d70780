"""Metrics: what is measured of one model, item by item, and how items become one number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.registry import Registry

if TYPE_CHECKING:
    from expunge.metrics.base import Metric

metrics: Registry[Metric] = Registry("metric", "expunge.metrics")
