"""``expunge inspect``: query the models of a run in a browser."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.options import print_done, print_warning


def inspect(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of audits, of the demo, of unlearned models or of checkpoints."),
    ],
    host: Annotated[
        str, typer.Option(help="Address to bind; any but 127.0.0.1 is reachable from other machines.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to bind; 0 picks a free one.")] = 7861,
    budget: Annotated[
        float | None,
        typer.Option(min=0.001, help="GiB of memory for models. Default: half of the free memory."),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
) -> None:
    """Serve a page to query target, retrained and unlearned models side by side, at any precision.

    The server is local and needs no network. The page shows the texts to be forgotten, so the printed
    address contains an access key.

    Example:  expunge inspect runs/demo
    """
    # Must be set before torch is imported: spinning OpenMP threads slow a small model from tenths of a
    # second to seconds per answer when other processes share the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from expunge.inspector.job import InspectJob

    job = InspectJob(paths=tuple(runs), host=host, port=port, budget=budget, browser=browser)
    if host not in ("127.0.0.1", "::1", "localhost"):
        print_warning(f"{host} can be reached from other machines; anyone with the key can read the texts.")
    job.run(lambda address: print_done(f"{address}  (Ctrl+C to stop)"))


def add_to(app: typer.Typer, section: str) -> None:
    """Register the command under a section of the program's help."""
    app.command(rich_help_panel=section)(inspect)
