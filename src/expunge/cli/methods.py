"""``expunge methods``: the recipes, and the YAML of one."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table


def methods(
    name: Annotated[
        str | None, typer.Argument(help="Show this recipe's YAML. Without it: list all.")
    ] = None,
) -> None:
    """List the methods, or show one as the YAML it is.

    Save what it prints, change it, and pass the file to [bold]unlearn --recipe[/].

    Example:  expunge methods npo_klr_sure > mine.yaml
    """
    import yaml

    from expunge.catalogue import made_of, recipe_names, recipe_text

    console = Console()
    if name is not None:
        text = recipe_text(name)
        if console.is_terminal:
            console.print(Syntax(text, "yaml", background_color="default", word_wrap=True))
        else:
            typer.echo(text, nl=False)  # byte for byte: it is meant to be saved
        return
    table = Table(
        title="Methods: forget loss × retain loss × scope × adversary (expunge methods NAME shows one)",
        title_justify="left",
    )
    table.add_column("name", no_wrap=True)
    for heading in ("made of", "needs", "what it does", "source"):
        table.add_column(heading, overflow="fold")
    for known in recipe_names():
        recipe = yaml.safe_load(recipe_text(known))
        needs = ", ".join(recipe.get("needs", ())) or "-"
        table.add_row(known, made_of(recipe), needs, recipe["title"], recipe["paper"])
    console.print(table)


def add_to(app: typer.Typer) -> None:
    """Make the verb known."""
    app.command()(methods)
