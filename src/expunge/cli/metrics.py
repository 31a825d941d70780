"""``expunge metrics``: what can be measured, what it needs and when it misleads."""

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
"""Characters the column of needs takes at most."""


def metrics(
    name: Annotated[
        str | None, typer.Argument(help="Explain this metric in full. Without it: list all.")
    ] = None,
) -> None:
    """List the metrics, or say of one what it means, when it misleads and what others get wrong.

    An audit measures those of the first table unasked, as far as it has what they need; the others with
    [bold]audit --metric NAME[/].

    Example:  expunge metrics verbmem
    """
    from expunge.metrics.cards import card_of, known_cards, section

    console = Terminal()
    if name is not None:
        console.print(Markdown(section(card_of(name)), hyperlinks=False))
        return
    cards = known_cards().values()
    console.print(_table("Measured unasked (↓ lower is better)", [card for card in cards if card.default]))
    others = [card for card in cards if not card.default]
    if others:
        console.print(_table("Measured when named: audit --metric NAME, or --metric all", others))
    echo("expunge metrics NAME says when a number misleads; docs/metrics.md has all of them.")


def _table(title: str, cards: Sequence[MetricCard]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("")
    table.add_column("what it is, and its source", overflow="fold")
    table.add_column("needs", overflow="fold", max_width=NEEDS)
    for card in cards:
        what = Text.assemble(card.definition, "\n", (card.source, "dim"))
        table.add_row(Text(card.name), card.arrow, what, card.needs)
    return table


def add_to(app: typer.Typer) -> None:
    """Make the verb known."""
    app.command()(metrics)
