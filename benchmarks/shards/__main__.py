"""``python -m benchmarks.shards``: train, delete, compare; then write results and tables.

A killed run goes on where it was: plans are kept under ``--home``.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.compare import RESULTS
from benchmarks.shards.arms import ADAPTERS, BASE, MODEL, PEOPLE, SEEDS, TRAINING, arms
from benchmarks.shards.measure import base, measure
from benchmarks.shards.page import fill
from benchmarks.shards.rates import rates
from expunge.bench.jobs import Job, run_jobs
from expunge.files import write_json
from expunge.record import Stopwatch, make_record

DOCS = Path(__file__).parents[2] / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shards", description=__doc__)
    parser.add_argument("--home", type=Path, default=Path("runs/shards"), help="where plans are kept")
    parser.add_argument("--workers", type=int, default=2, help="plans side by side")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many of the worlds")
    chosen = parser.parse_args()
    watch, own = Stopwatch(), arms(chosen.seeds)
    worlds = {arm.seed: arm.place(chosen.home).parent for arm in own}
    bases = [
        Job(name=f"base of seed {seed}", work=partial(base, seed, home)) for seed, home in worlds.items()
    ]
    run_jobs(bases, workers=chosen.workers, console=Console())
    jobs = [
        Job(name=f"{arm.name}, {arm.start}, seed {arm.seed}", work=partial(measure, arm, chosen.home))
        for arm in own
    ]
    run_jobs(jobs, workers=chosen.workers, console=Console())
    found = [json.loads((arm.place(chosen.home) / "found.json").read_text("utf-8")) for arm in own]
    plans = [{"start": arm.start, **numbers} for arm, numbers in zip(own, found, strict=True)]
    results = {
        "record": make_record(command="shards", watch=watch, runs=len(own), seeds=chosen.seeds),
        "people": PEOPLE,
        "model": MODEL.model_dump(),
        "training": TRAINING.model_dump(mode="json"),
        "adapters": ADAPTERS.model_dump(mode="json"),
        "base": BASE,
        "arms": plans,
        "rates": rates(SEEDS[: chosen.seeds]),
    }
    write_json(RESULTS / "shards.json", results)
    fill(DOCS / "shards.md", results)


if __name__ == "__main__":
    main()
