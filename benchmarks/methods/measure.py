"""Audit every method at full precision and rounded to 4 bits, one audit for each world."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.methods.arms import Arm, builtin, place
from expunge.audit.run.job import AuditJob
from expunge.bench.jobs import Job, run_jobs

QUANTIZERS = ("int4",)
METRICS = ("knowmem_forget", "paraphrase_questions", "verbmem", "utility", "neighbours", "privleak")
ITEMS = 40
"""Of each split: all 36 questions about those to be forgotten, and as many about those who stay."""


def measure(arms: Sequence[Arm], home: Path, *, workers: int, console: Console) -> None:
    """One audit for every world."""
    trained = [arm for arm in arms if place(arm, home).exists()]
    if len(trained) < len(arms):
        console.print(f"[yellow]{len(arms) - len(trained)} runs are not finished and are left out[/]")
    jobs = [
        Job(
            name=f"audit of seed {seed}",
            work=partial(audit, seed, [arm for arm in trained if arm.seed == seed], home),
        )
        for seed in sorted({arm.seed for arm in trained})
    ]
    run_jobs(jobs, workers=workers, console=console)


def audit(seed: int, arms: Sequence[Arm], home: Path) -> None:
    """All methods of one world."""
    built = builtin(seed, home)
    AuditJob(
        models=tuple(str(place(arm, home)) for arm in arms),
        target=str(built.checkpoint("target")),
        retrained=str(built.checkpoint("retrained")),
        probes=built.world_folder,
        quantizers=QUANTIZERS,
        metrics=METRICS,
        output=folder(seed, home),
        max_items=ITEMS,
        max_length=256,
    ).run()


def folder(seed: int, home: Path) -> Path:
    """Where a world's audit lies."""
    return home / f"audit-seed{seed}"
