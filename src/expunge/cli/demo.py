"""``expunge demo``: unlearn, quantize and audit a small built-in model in a few minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.text import Text

from expunge.cli.launched import train_in_one_process
from expunge.terminal import Terminal


def demo(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for the models and the audit; reused if it exists. Default: runs/demo, or "
            "runs/demo-smollm2.",
        ),
    ] = None,
    model: Annotated[
        Literal["builtin", "smollm2"],
        typer.Option(
            "--model",
            help="builtin: a small model trained from nothing. smollm2: SmolLM2-135M, a pretrained model, "
            "with the extra smollm2; experimental, not yet run to its end.",
        ),
    ] = "builtin",
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Parallel processes, one core each.")
    ] = 2,
) -> None:
    """Watch forgotten knowledge come back at 4 bits, and a model whose forgetting holds.

    Trains a small model that memorises fictional people and a control that never saw some of them,
    unlearns those people in three ways, and audits all five models at six precisions. Takes about five
    minutes on two cores the first time; nothing is downloaded.
    """
    train_in_one_process()
    from expunge.bench.demo import MINUTES, Demo, narrate, smollm2_demo
    from expunge.bench.smollm2 import packaged_file
    from expunge.report.job import write_page
    from expunge.report.run import read_run
    from expunge.report.screen import screen

    console = Terminal()
    if model == "smollm2":
        packaged_file()  # refused now, not in a worker
    output = output or Path("runs/demo" if model == "builtin" else "runs/demo-smollm2")
    make = Demo if model == "builtin" else smollm2_demo
    estimate = "" if model == "builtin" else ", an estimate: experimental, not yet run to its end"
    console.print(
        Text(f"about {MINUTES[model]} minutes on two cores the first time{estimate}", style="dim")
    )
    summary = make(output=output, workers=workers).run(console)
    audit_folder = output / "audit"
    console.print(screen(read_run(audit_folder), width=console.width))
    console.print(narrate(summary))
    paths = f"results: {audit_folder / 'summary.json'} · per item: {audit_folder / 'scores.parquet'}"
    console.print(Text(paths, style="dim"))
    console.print(Text(f"report: {write_page(audit_folder)}"), soft_wrap=True)


def add_to(app: typer.Typer, section: str) -> None:
    """Register the command under a section of the program's help."""
    app.command(rich_help_panel=section)(demo)
