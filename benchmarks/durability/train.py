"""Train what the study compares; what an earlier run has finished is not trained again."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.durability.arms import Arm, Replicate
from expunge.bench.jobs import Job, run_jobs
from expunge.train.run.job import UnlearnJob


def train(arms: list[Arm], home: Path, *, workers: int, console: Console) -> None:
    """Targets and controls first where an arm needs them, then the arms in their order."""
    jobs: dict[str, Job] = {}
    for arm in arms:
        world = at(arm.world, home)
        built = world.builtin
        _ = built.world_folder  # written before the workers read it
        for which in ("target", "retrained"):
            name = f"{which} of seed {arm.seed}, width {arm.width}"
            if not built.checkpoint(which).exists():
                jobs.setdefault(
                    name, Job(name=name, work=partial(built.build, which), output=built.checkpoint(which))
                )
        output = place(arm, home)
        if not output.exists():
            target = f"target of seed {arm.seed}, width {arm.width}"
            after = (target,) if target in jobs else ()
            jobs[str(output)] = Job(
                name=f"{arm.cell}, seed {arm.seed}",
                work=partial(unlearn, arm, home),
                output=output,
                after=after,
            )
    run_jobs(list(jobs.values()), workers=workers, console=console)


def unlearn(arm: Arm, home: Path) -> None:
    """One arm."""
    built = at(arm.world, home).builtin
    world = built.world_folder
    UnlearnJob(
        model=str(built.checkpoint("target")),
        recipe=arm.method,
        forget=str(world / "forget.jsonl"),
        retain=str(world / "retain.jsonl"),
        forget_icl=str(world / "forget_icl.jsonl"),
        retain_icl=str(world / "retain_icl.jsonl"),
        overrides=arm.overrides,
        output=place(arm, home),
        seed=arm.seed,
    ).run(warn=_ignore)


def at(world: Replicate, home: Path) -> Replicate:
    """A replicate whose models are kept with the study."""
    return replace(world, home=home / "builtin")


def place(arm: Arm, home: Path) -> Path:
    """Where an arm's checkpoint lies; models of one world lie side by side."""
    return home / f"seed{arm.seed}-h{arm.width}" / arm.cell


def _ignore(_: str) -> None:
    """The world's sets share no text; there is nothing to warn of."""
