"""``python -m benchmarks.methods``: train and audit every method, then write results, table and figure.

A killed run goes on where it was: finished models and finished parts of audits are kept under ``--home``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from benchmarks.compare import RESULTS
from benchmarks.methods.arms import SEEDS, arms
from benchmarks.methods.figures import draw
from benchmarks.methods.measure import measure
from benchmarks.methods.page import fill
from benchmarks.methods.results import results
from benchmarks.methods.train import train
from expunge.files import write_json
from expunge.record import Stopwatch, make_record

DOCS = Path(__file__).parents[2] / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=__doc__)
    parser.add_argument("--home", type=Path, default=Path("runs/methods"), help="where models are kept")
    parser.add_argument("--workers", type=int, default=2, help="runs side by side")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many of the worlds")
    parser.add_argument("--recipes", nargs="*", default=(), help="only these recipes; nothing is written")
    parser.add_argument("--only", choices=("train", "audit", "write"), help="only this part")
    chosen = parser.parse_args()
    console, watch = Console(), Stopwatch()
    own = arms(chosen.seeds, tuple(chosen.recipes))
    if chosen.only in (None, "train"):
        train(own, chosen.home, workers=chosen.workers, console=console)
    if chosen.only in (None, "audit"):
        measure(own, chosen.home, workers=chosen.workers, console=console)
    if chosen.only in (None, "write") and not chosen.recipes:
        found = results(own, chosen.home)
        record = make_record(command="methods", watch=watch, runs=len(own), seeds=chosen.seeds)
        write_json(RESULTS / "methods.json", {"record": record, **found})
        draw(found, DOCS / "pictures")
        fill(DOCS / "methods.md", found)


if __name__ == "__main__":
    main()
