"""``python -m benchmarks.durability``: train and audit every arm, then write results, tables and figures.

A killed run goes on where it was: finished models and finished parts of audits are kept under ``--home``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from benchmarks.compare import RESULTS
from benchmarks.durability.arms import SEEDS, arms
from benchmarks.durability.figures import draw
from benchmarks.durability.measure import measure
from benchmarks.durability.page import fill
from benchmarks.durability.results import results
from benchmarks.durability.train import train
from expunge.files import write_json
from expunge.record import Stopwatch, make_record

DOCS = Path(__file__).parents[2] / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durability", description=__doc__)
    parser.add_argument("--home", type=Path, default=Path("runs/durability"), help="where models are kept")
    parser.add_argument("--workers", type=int, default=2, help="models trained side by side")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many of the seeds")
    parser.add_argument("--only", choices=("train", "audit", "write"), help="only this part")
    chosen = parser.parse_args()
    console, watch = Console(), Stopwatch()
    own = [arm for arm in arms() if arm.seed < chosen.seeds]
    if chosen.only in (None, "train"):
        train(own, chosen.home, workers=chosen.workers, console=console)
    if chosen.only in (None, "audit"):
        measure(own, chosen.home, workers=chosen.workers, console=console)
    if chosen.only in (None, "write"):
        found = results(own, chosen.home)
        record = make_record(command="durability", watch=watch, arms=len(own), seeds=chosen.seeds)
        write_json(RESULTS / "durability.json", {"record": record, **found})
        draw(found, DOCS / "pictures")
        fill(DOCS / "why-it-comes-back.md", found)


if __name__ == "__main__":
    main()
