"""Scores of several worlds together: a mean over worlds, its interval from people resampled within each."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from expunge.audit.statistics.bootstrap import Bootstrap, Estimate
from expunge.audit.statistics.compare import align
from expunge.audit.summary import AuditSummary, read_summary
from expunge.metrics import metrics
from expunge.metrics.base import Floats, Measured, Values, Weights
from expunge.types import Score

TARGET, RETRAINED = "target", "retrained"
Key = tuple[str, str, str]
"""Model, condition, metric."""


@dataclass(frozen=True, kw_only=True)
class World:
    """The scores of one audited world, and its summary."""

    scores: Mapping[Key, Measured]
    summary: AuditSummary

    def has(self, model: str) -> bool:
        """Whether the world's audit measured this model."""
        return any(name == model for name, _, _ in self.scores)


def read_world(place: Path) -> World:
    """Everything the audit in the folder ``place`` wrote."""
    found: dict[Key, dict[str, list[Score]]] = defaultdict(lambda: defaultdict(list))
    for row in pq.read_table(place / "scores.parquet").to_pylist():
        name = Path(row["model"]).name
        score = Score(
            item=row["item"],
            value=row["value"],
            group=row["group"],
            unscored=row["unscored"],
            detail=json.loads(row["detail"]),
        )
        found[name, row["condition"], row["metric"]][row["split"]].append(score)
    return World(scores=found, summary=read_summary(place / "summary.json"))


class Pool:
    """Estimates over several worlds with the same models in each."""

    def __init__(self, worlds: Sequence[World], bootstrap: Bootstrap | None = None) -> None:
        self.worlds = worlds
        self.bootstrap = bootstrap or Bootstrap()

    def holding(self, model: str) -> Pool:
        """Those of the worlds in which this model was trained."""
        return Pool([world for world in self.worlds if world.has(model)], self.bootstrap)

    def value(self, model: str, condition: str, metric: str) -> Estimate:
        """The metric, averaged over the worlds."""
        return self._estimate([(model, condition)], metric, lambda found: found[0])

    def recovery(self, model: str, condition: str, metric: str) -> Estimate:
        """Points over the same model at full precision, paired by item."""
        pair = [(model, condition), (model, "full")]
        return self._estimate(pair, metric, lambda found: found[0] - found[1])

    def excess(self, model: str, condition: str, metric: str) -> Estimate:
        """Points over the retrained control under the same condition, paired by item."""
        pair = [(model, condition), (RETRAINED, condition)]
        return self._estimate(pair, metric, lambda found: found[0] - found[1])

    def retention(self, model: str, condition: str, metric: str) -> Estimate:
        """Percent of the target's value under the same condition."""
        pair = [(model, condition), (TARGET, condition)]
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._estimate(pair, metric, lambda found: 100 * found[0] / found[1])

    def by_seed(self, model: str, condition: str, metric: str) -> list[float | None]:
        """The value in each world alone."""
        return [
            metrics.build({"name": metric}).point_estimate(
                world.scores[model, condition, metric], world.scores[RETRAINED, condition, metric]
            )
            for world in self.worlds
        ]

    def _estimate(self, cells: Sequence[tuple[str, str]], metric: str, combine: Any) -> Estimate:
        built = metrics.build({"name": metric})
        clusters: dict[str, list[Any]] = {}
        sides: list[list[tuple[Values, Values]]] = [[] for _ in cells]
        for place, world in enumerate(self.worlds):
            tables = [world.scores[*cell, metric] for cell in cells]
            controls = [world.scores[RETRAINED, condition, metric] for _, condition in cells]
            aligned = align([*tables, *controls])
            clusters |= {f"{place}/{split}": labels for split, labels in aligned.clusters.items()}
            for side, own, control in zip(
                sides, aligned.values[: len(cells)], aligned.values[len(cells) :], strict=True
            ):
                side.append((own, control))

        def mean(side: Sequence[tuple[Values, Values]], weights: Weights) -> Floats:
            each = [
                built.statistic(own, {split: weights[f"{place}/{split}"] for split in own}, control)
                for place, (own, control) in enumerate(side)
            ]
            total: Floats = np.mean(each, axis=0)
            return total

        found = [
            self.bootstrap.resample(lambda weights, side=side: mean(side, weights), clusters)
            for side in sides
        ]
        return self.bootstrap.interval(combine(found), clusters)


def as_json(estimate: Estimate) -> dict[str, Any]:
    """A number with its interval, two decimals."""
    return {
        name: round(value, 2) if isinstance(value, float) else value
        for name, value in asdict(estimate).items()
        if name in ("value", "low", "high")
    }
