"""Audit every arm under every quantizer; what an earlier run has measured is not measured again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

from rich.console import Console

from benchmarks.durability.arms import Arm, Replicate
from benchmarks.durability.train import at, place
from expunge.audit.run.calibrate import CalibrationChoice
from expunge.audit.run.job import AuditJob
from expunge.bench.jobs import Job, run_jobs

QUANTIZERS = (
    "int8",
    "int4",
    "gptq4",
    "awq4-g64",
    "fp4",
    "nf4",
    "gguf-q4_k",
    "int4-g64",
    "int4-tensor",
)
ITEMS = 40
"""Of each split: all 36 questions about those to be forgotten, and as many about those who stay."""
METRICS = ("verbmem", "knowmem_forget", "privleak", "utility")


def measure(arms: Sequence[Arm], home: Path, *, workers: int, console: Console) -> None:
    """One audit for every world and width: its target, its control and its arms."""
    trained = [arm for arm in arms if place(arm, home).exists()]
    if len(trained) < len(arms):
        console.print(f"[yellow]{len(arms) - len(trained)} arms are not trained and are left out[/]")
    jobs = [
        Job(name=f"audit seed {world.seed}, width {world.width}", work=partial(audit, world, own, home))
        for world, own in by_world(trained)
    ]
    run_jobs(jobs, workers=workers, console=console)


def by_world(arms: Sequence[Arm]) -> list[tuple[Replicate, list[Arm]]]:
    """The arms that start from the same target, together."""
    ordered = sorted(arms, key=lambda arm: (arm.width, arm.seed))
    return [(world, list(own)) for world, own in groupby(ordered, key=lambda arm: arm.world)]


def audit(world: Replicate, arms: Sequence[Arm], home: Path) -> None:
    """All arms of one world."""
    built = at(world, home).builtin
    AuditJob(
        models=tuple(str(place(arm, home)) for arm in arms),
        target=str(built.checkpoint("target")),
        retrained=str(built.checkpoint("retrained")),
        probes=built.world_folder,
        quantizers=QUANTIZERS,
        metrics=METRICS,
        calibration=CalibrationChoice(samples=32, length=128),
        output=folder(world, home),
        max_items=ITEMS,
        max_length=256,
    ).run()


def folder(world: Replicate, home: Path) -> Path:
    """Where a world's audit lies."""
    return home / f"audit-seed{world.seed}-h{world.width}"
