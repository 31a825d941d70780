"""Verbs that train, under a launcher of several processes: one of them trains."""

from __future__ import annotations

import os

import typer

from expunge.cli.options import print_warning

RENDEZVOUS = ("WORLD_SIZE", "RANK", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")
"""How the names begin by which a launcher tells a process of the others."""
STRATEGIES = tuple(f"ACCELERATE_USE_{name}" for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM"))
"""What accelerate is told by the environment to spread a model with."""


def train_in_one_process() -> None:
    """Say that training is not distributed, and leave it to the first of several launched processes.

    The others end at once without a word. The first forgets that there were others, or it would wait for
    them; its result is that of the same command without a launcher.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes == "1":
        return
    if os.environ.get("RANK", "0") != "0":
        raise typer.Exit
    print_warning(
        f"launched in {processes} processes, and training is not distributed: one of them trains, the "
        "others have ended. Leave the launcher out."
    )
    for name in [each for each in os.environ if each.startswith((*RENDEZVOUS, *STRATEGIES))]:
        del os.environ[name]
