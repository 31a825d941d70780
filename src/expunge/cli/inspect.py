"""``expunge inspect``: ask the models, and see what came back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.options import print_done, print_warning


def inspect(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders: audits, the demo, unlearned models, checkpoints."),
    ],
    host: Annotated[
        str, typer.Option(help="Address to serve at; others than 127.0.0.1 can be reached from elsewhere.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to serve at; 0: any free one.")] = 7861,
    budget: Annotated[
        float | None,
        typer.Option(min=0.001, help="GiB of memory for models; default: half of what is free."),
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page at once.")] = True,
) -> None:
    """Open a page to ask target, retrained and unlearned models side by side, at any precision.

    It runs on this machine alone and asks nothing of the network. It shows what was to be forgotten, so
    the address it prints carries a key: only who has it can look.

    Example:  expunge inspect runs/demo
    """
    # Before torch is loaded: threads that spin while they wait make answers of a small model take seconds
    # instead of tenths where something else runs on the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from expunge.inspector.job import InspectJob

    job = InspectJob(paths=tuple(runs), host=host, port=port, budget=budget, browser=browser)
    if host not in ("127.0.0.1", "::1", "localhost"):
        print_warning(f"{host} can be reached from other machines; whoever has the key reads the texts.")
    job.run(lambda address: print_done(f"{address}  (Ctrl+C ends it)"))


def add_to(app: typer.Typer) -> None:
    """Make the verb known."""
    app.command()(inspect)
