"""What the study found, as plain data: every cell with intervals, one row per arm for the figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.durability.arms import Arm
from benchmarks.durability.measure import METRICS, QUANTIZERS, by_world, folder
from benchmarks.pooling import RETRAINED, TARGET, Pool, World, as_json, read_world
from expunge.model.precision import movable_below

FORGET = "knowmem_forget"
FULL = "full"
ROOM = 15.0
"""Points between a model and the target's quantized score below which a share of return says nothing."""


def results(arms: Sequence[Arm], home: Path) -> dict[str, Any]:
    """Tables pooled over the seeds of each width, and points of single models."""
    worlds = [(at, read_world(folder(at, home)), own) for at, own in by_world(arms)]
    widths = sorted({arm.width for arm in arms})
    return {
        "quantizers": list(QUANTIZERS),
        "metrics": list(METRICS),
        "cells": [
            row
            for width in widths
            for row in _cells([world for at, world, _ in worlds if at.width == width], arms, width)
        ],
        "points": [point for _, world, own in worlds for point in _points(world, own)],
    }


def _cells(worlds: Sequence[World], arms: Sequence[Arm], width: int) -> list[dict[str, Any]]:
    every = Pool(worlds)
    names = dict.fromkeys(arm.cell for arm in arms if arm.width == width)
    pools = {model: every.holding(model) for model in (TARGET, RETRAINED, *names)}
    return [
        _cell(pool, width, model, condition, metric)
        for model, pool in pools.items()
        if pool.worlds
        for condition in (FULL, *QUANTIZERS)
        for metric in METRICS
    ]


def _cell(pool: Pool, width: int, model: str, condition: str, metric: str) -> dict[str, Any]:
    row: dict[str, Any] = {"width": width, "model": model, "condition": condition, "metric": metric}
    row["value"] = as_json(pool.value(model, condition, metric))
    row["by_seed"] = [
        None if value is None else round(value, 2) for value in pool.by_seed(model, condition, metric)
    ]
    if model in (TARGET, RETRAINED):
        return row
    if condition != FULL:
        row["recovery"] = as_json(pool.recovery(model, condition, metric))
    if metric == FORGET:
        row["excess"] = as_json(pool.excess(model, condition, metric))
    if metric != "privleak":
        row["retention"] = as_json(pool.retention(model, condition, metric))
    return row


def _points(world: World, arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """For each model and quantizer: how much of the way back to the target's score it went, and why."""
    notes = {(Path(note.model).name, note.condition): note.content for note in world.summary.diagnostics}
    points = []
    for arm in arms:
        if not world.has(arm.cell):
            continue
        full = _score(world, arm.cell, FULL)
        for condition in QUANTIZERS:
            now, target = (_score(world, name, condition) for name in (arm.cell, TARGET))
            total = notes.get((arm.cell, condition), {}).get("total", {})
            reach = movable_below(arm.rate) if arm.weights == "bf16" else None
            half_step = total.get("half_step")
            points.append(
                {
                    "model": arm.cell,
                    "method": arm.method,
                    "weights": arm.weights,
                    "rate": arm.rate,
                    "mask": arm.mask,
                    "width": arm.width,
                    "seed": arm.seed,
                    "condition": condition,
                    "full": full,
                    "now": now,
                    "target": target,
                    "return": (now - full) / (target - full) if target - full >= ROOM else None,
                    "surviving": total.get("surviving"),
                    "same": total.get("same", 0) / total["weights"] if total else None,
                    "erased": total.get("erased_share"),
                    "reach": reach,
                    "half_step": half_step,
                    "ratio": reach / half_step if reach and half_step else None,
                }
            )
    return points


def _score(world: World, model: str, condition: str) -> float:
    value = world.summary.cell(_name(world, model), condition, FORGET).value.value
    return math.nan if value is None else value


def _name(world: World, model: str) -> str:
    return next(row.name for row in world.summary.models if Path(row.name).name == model)
