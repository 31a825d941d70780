"""What the methods did, as plain data: every cell with its interval, and what each run cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.methods.arms import Arm, place
from benchmarks.methods.measure import METRICS, QUANTIZERS, folder
from benchmarks.pooling import RETRAINED, TARGET, Pool, as_json, read_world
from expunge.files import RECORD
from expunge.train.run.outcome import stop_facts

FULL = "full"


def results(arms: Sequence[Arm], home: Path) -> dict[str, Any]:
    """Every method pooled over the worlds it was run in; ``target`` and ``retrained`` beside them."""
    worlds = [read_world(folder(seed, home)) for seed in sorted({arm.seed for arm in arms})]
    names = dict.fromkeys(arm.recipe for arm in arms)
    every = Pool(worlds)
    landmarks = [_row(every, name) for name in (TARGET, RETRAINED)]
    return {
        "metrics": list(METRICS),
        "conditions": [FULL, *QUANTIZERS],
        "landmarks": landmarks,
        "methods": [
            _row(every.holding(name), name) | cost([arm for arm in arms if arm.recipe == name], home)
            for name in names
            if every.holding(name).worlds
        ],
    }


def _row(pool: Pool, model: str) -> dict[str, Any]:
    cells = {
        condition: {metric: _cell(pool, model, condition, metric) for metric in METRICS}
        for condition in (FULL, *QUANTIZERS)
    }
    return {"model": model, "worlds": len(pool.worlds), "cells": cells}


def _cell(pool: Pool, model: str, condition: str, metric: str) -> dict[str, Any]:
    by_seed = pool.by_seed(model, condition, metric)
    found = as_json(pool.value(model, condition, metric))
    found["by_seed"] = [None if value is None else round(value, 2) for value in by_seed]
    if condition != FULL:
        found["recovery"] = as_json(pool.recovery(model, condition, metric))
    return found


def cost(arms: Sequence[Arm], home: Path) -> dict[str, Any]:
    """The settings of a method, and what its runs took: medians over the worlds."""
    records = [record for arm in arms if (record := _record(place(arm, home))) is not None]
    first = records[0]
    return {
        "title": first["recipe"]["title"],
        "paper": first["recipe"]["paper"],
        "needs": first["recipe"]["needs"],
        "set": list(arms[0].settings.set),
        "why": arms[0].settings.why,
        "data": arms[0].settings.data,
        "steps": median(sum(stage.get("steps", 0) for stage in record["stages"]) for record in records),
        "cpu_seconds": median(record["cpu_seconds"] for record in records),
        "peak_memory_mib": median(record["peak_memory_mib"] for record in records),
        "runs": [
            {"seed": record["seed"]}
            | {key: record[key] for key in ("source_sha256", "result_sha256", "cpu_seconds", "started")}
            | {"stop": [_stop(facts) for stage in record["stages"] for facts in stop_facts(stage)]}
            for record in records
        ],
    }


def _stop(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {key: facts[key] for key in ("reached", "ended_by", "levels", "floor", "last")}


def _record(output: Path) -> Mapping[str, Any] | None:
    path = output / RECORD
    if not path.exists():
        return None
    record: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record
