"""``expunge metrics``: list the metrics, their inputs and their caveats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from expunge.terminal import Terminal, echo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expunge.metrics.cards import MetricCard

NEEDS = 20
"""Maximum width of the column of inputs."""


def metrics(
    name: Annotated[
        str | None, typer.Argument(help="Metric to explain in full. Default: list all.")
    ] = None,
) -> None:
    """List the metrics, or explain one: its meaning, caveats and errors in other implementations.

    An audit measures the metrics of the first table by default, if it has their inputs; the others are
    measured with [bold]audit --metric NAME[/].

    Example:  expunge metrics verbmem
    """
    from expunge.metrics.cards import card_of, known_cards, section

    console = Terminal()
    if name is not None:
        console.print(Markdown(section(card_of(name)), hyperlinks=False))
        return
    cards = known_cards().values()
    console.print(
        _table("Measured by default (↓ lower is better)", [card for card in cards if card.default])
    )
    others = [card for card in cards if not card.default]
    if others:
        console.print(_table("Measured on request: audit --metric NAME, or --metric all", others))
    echo("expunge metrics NAME explains one metric and its caveats; docs/metrics.md documents all of them.")


def _table(title: str, cards: Sequence[MetricCard]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("")
    table.add_column("definition and source", overflow="fold")
    table.add_column("needs", overflow="fold", max_width=NEEDS)
    for card in cards:
        what = Text.assemble(card.definition, "\n", (card.source, "dim"))
        table.add_row(Text(card.name), card.arrow, what, card.needs)
    return table


def add_to(app: typer.Typer, section: str) -> None:
    """Register the command under a section of the program's help."""
    app.command(rich_help_panel=section)(metrics)
