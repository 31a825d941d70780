"""Training commands under a multi-process launcher: only the first process trains."""

from __future__ import annotations

import os

import typer

from expunge.cli.options import print_warning

RENDEZVOUS = ("WORLD_SIZE", "RANK", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")
"""Prefixes of the environment variables that a launcher sets."""
STRATEGIES = tuple(f"ACCELERATE_USE_{name}" for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM"))
"""Environment variables by which accelerate selects a distribution strategy."""


def train_in_one_process() -> None:
    """Warn that training is not distributed, and run it in the first of several launched processes only.

    The other processes exit silently. The first one drops the launcher's variables, or it would wait for
    the others; its result equals that of the same command without a launcher.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes == "1":
        return
    if os.environ.get("RANK", "0") != "0":
        raise typer.Exit
    print_warning(
        f"launched in {processes} processes, but training is not distributed: one of them trains, the "
        "others have exited. Run the command without the launcher."
    )
    for name in [each for each in os.environ if each.startswith((*RENDEZVOUS, *STRATEGIES))]:
        del os.environ[name]
