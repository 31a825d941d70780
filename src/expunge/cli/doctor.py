"""``expunge doctor``: what is installed, what is missing and how to install it."""

from __future__ import annotations

import typer
from rich.table import Table
from rich.text import Text

from expunge.terminal import Terminal, echo


def doctor() -> None:
    """Show versions, devices, memory and optional backends, and how to install missing ones."""
    from expunge.model.resources import examine

    console = Terminal()
    report = examine()
    table = Table(title="This machine", title_justify="left", show_header=False)
    for name, value in report.facts.items():
        table.add_row(name, value)
    console.print(table)
    backends = Table(title="Optional backends", title_justify="left")
    for heading in ("backend", "for", "found"):
        backends.add_column(heading, overflow="fold")
    for backend in report.backends:
        backends.add_row(backend.package, backend.purpose, backend.version or Text("missing", "yellow"))
    console.print(backends)
    missing = [backend for backend in report.backends if not backend.version]
    for backend in missing:
        echo(f'To install {backend.package}: pip install "expunge[{backend.extra}]"')
    if missing:
        echo("Everything else works without them.")


def add_to(app: typer.Typer, section: str) -> None:
    """Register the command under a section of the program's help."""
    app.command(rich_help_panel=section)(doctor)
