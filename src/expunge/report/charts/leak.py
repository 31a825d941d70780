"""Leak@k: how the chance that sampling gives a text grows with the number of draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from expunge.audit.saved import SCORES, invalid
from expunge.metrics.leak_at_k import LOG_P, at_least_once
from expunge.report.charts.svg import tag
from expunge.report.items import score_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from expunge.audit.run.plan import Role
    from expunge.report.run import AuditRun

DRAWS = tuple(2**power for power in range(11))
"""The numbers of draws on the axis, which is logarithmic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakCurve:
    """Mean over texts of the chance, in percent, that so many draws (``DRAWS``) give the text."""

    model: str
    role: Role
    percents: tuple[float, ...]


def leak_curves(run: AuditRun) -> Iterator[tuple[str, list[LeakCurve]]]:
    """By condition the curve of every model, from one metric that keeps the probability of each text."""
    places = {(model.name, label) for model in run.checkpoints for label in run.labels}
    chances: dict[str, dict[tuple[str, str], list[float]]] = {}
    for row in score_rows(run, places):
        if row["value"] is not None and LOG_P in row["detail"]:
            of_metric = chances.setdefault(row["metric"], {})
            of_metric.setdefault((row["model"], row["condition"]), []).append(_log_p(run, row["detail"]))
    found = next(iter(chances.values()), {})
    for label in run.labels:
        curves = [
            LeakCurve(model=model.name, role=model.role, percents=_percents(found[model.name, label]))
            for model in run.checkpoints
            if (model.name, label) in found
        ]
        if curves:
            yield label, curves


def _log_p(run: AuditRun, detail: Mapping[str, str]) -> float:
    try:
        log_p = float(detail[LOG_P])
    except ValueError as error:
        raise invalid(run.folder / SCORES, error) from error
    if math.isnan(log_p):
        raise invalid(run.folder / SCORES, ValueError(f"{LOG_P} of a score is not a number"))
    return log_p


def _percents(log_ps: Sequence[float]) -> tuple[float, ...]:
    return tuple(
        100 * math.fsum(at_least_once(log_p, draws) for log_p in log_ps) / len(log_ps) for draws in DRAWS
    )


def polylines(curves: Sequence[LeakCurve]) -> Markup:
    """The curves of one condition; the numbers are in a list beside them."""
    step = 100 / (len(DRAWS) - 1)
    drawn = [
        tag(
            "polyline",
            {
                "points": " ".join(
                    f"{at * step:.2f},{96 - 0.92 * percent:.2f}"
                    for at, percent in enumerate(curve.percents)
                ),
                "class": f"curve leak {curve.role.value}",
                "vector-effect": "non-scaling-stroke",
            },
            tag("title", {}, curve.model),
        )
        for curve in curves
    ]
    says = "; ".join(
        f"{curve.model}: {curve.percents[0]:.3g} % in one draw, {curve.percents[-1]:.3g} % in {DRAWS[-1]:,}"
        for curve in curves
    )
    attributes = {
        "viewBox": "0 0 100 100",
        "preserveAspectRatio": "none",
        "role": "img",
        "aria-label": says,
    }
    return tag("svg", {"class": "chart curves", "height": 120, **attributes}, Markup("").join(drawn))
