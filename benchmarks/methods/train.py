"""Train every method in every world; what an earlier run has finished is not trained again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.methods.arms import Arm, builtin, place
from benchmarks.methods.data import write_variants
from expunge.bench.jobs import Job, run_jobs
from expunge.corpus.synthetic import World


def train(arms: Sequence[Arm], home: Path, *, workers: int, console: Console) -> None:
    """Targets and controls first, then the methods in their order."""
    for seed in sorted({arm.seed for arm in arms}):
        built = builtin(seed, home)
        _ = built.world_folder  # written before the workers read it
        write_variants(World(built.world), home / f"seed{seed}-forget")
    jobs = [
        Job(name=f"{which} of seed {seed}", work=partial(builtin(seed, home).build, which))
        for seed in sorted({arm.seed for arm in arms})
        for which in ("target", "retrained")
        if not builtin(seed, home).checkpoint(which).exists()
    ]
    run_jobs(jobs, workers=workers, console=console)
    missing = [arm for arm in arms if not place(arm, home).exists()]
    runs = [
        Job(
            name=f"{arm.recipe}, seed {arm.seed}", work=partial(unlearn, arm, home), output=place(arm, home)
        )
        for arm in missing
    ]
    run_jobs(runs, workers=workers, console=console)
    for arm in missing:
        if not place(arm, home).exists():
            console.print(f"[red]{arm.recipe}, seed {arm.seed} failed[/]: see {place(arm, home)}.log")


def unlearn(arm: Arm, home: Path) -> None:
    """One arm by the command line, in a process of its own: the peak memory it records is its own.

    What the command said is beside the output as ``NAME.log``; one that fails does not stop the others.
    """
    output = place(arm, home)
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.with_name(f"{output.name}.log").open("w", encoding="utf-8") as log:
        subprocess.run(command(arm, home), stdout=log, stderr=log, check=False, env=one_thread())


def command(arm: Arm, home: Path) -> list[str]:
    """What would be typed."""
    built = builtin(arm.seed, home)
    world = built.world_folder
    data = home / f"seed{arm.seed}-forget"
    forget = data / f"forget-{arm.settings.data}.jsonl"
    line = [sys.executable, "-m", "expunge", "unlearn", str(built.checkpoint("target"))]
    line += ["--recipe", arm.recipe, "--forget", str(forget), "--retain", str(world / "retain.jsonl")]
    if "holdout" in arm.needs:
        marked = arm.settings.data == "spans"
        line += ["--holdout", str(data / "holdout-spans.jsonl" if marked else world / "holdout.jsonl")]
    for solved in ("forget_icl", "retain_icl"):  # a stop rule asks as the audit does
        line += [f"--{solved.replace('_', '-')}", str(world / f"{solved}.jsonl")]
    for setting in arm.settings.set:
        line += ["--set", setting.format(data=data)]
    return [*line, "--seed", str(arm.seed), "--output", str(place(arm, home))]


def one_thread() -> dict[str, str]:
    """The environment of a run that has others beside it."""
    return os.environ | {"OMP_NUM_THREADS": "1"}
