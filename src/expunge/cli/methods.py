"""``expunge methods``: the recipes, and the YAML of one."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.syntax import Syntax
from rich.table import Table

from expunge.terminal import Terminal


def methods(
    name: Annotated[
        str | None, typer.Argument(help="Show this recipe's YAML. Without it: list all.")
    ] = None,
    long: Annotated[
        bool, typer.Option("--long", "-l", help="Also what each does, and its source in full.")
    ] = False,
) -> None:
    """List the methods, or show one as the YAML it is.

    Save what it prints, change it, and pass the file to [bold]unlearn --recipe[/].

    Example:  expunge methods npo_klr_sure > mine.yaml
    """
    from expunge.catalogue import recipe_text

    console = Terminal()
    if name is not None:
        text = recipe_text(name)
        if console.is_terminal:
            console.print(Syntax(text, "yaml", background_color="default", word_wrap=True))
        else:
            typer.echo(text, nl=False)  # byte for byte: it is meant to be saved
        return
    console.print(_table(long=long))
    console.print("A method is forget loss × retain loss × scope × adversary, or stages.")


def _table(*, long: bool) -> Table:
    from expunge.catalogue import cited, made_of, recipe_names, recipe_text
    from expunge.parsing import load_yaml

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, show_lines=long)
    table.add_column("name", overflow="fold")
    for heading in ("made of", "needs", *(["what it does"] if long else []), "source"):
        table.add_column(heading, overflow="fold")
    for known in recipe_names():
        recipe = load_yaml(recipe_text(known))
        needs = ", ".join(recipe.get("needs", ()))
        about = [recipe["title"], recipe["paper"]] if long else [cited(recipe)]
        table.add_row(known, made_of(recipe), needs, *about)
    return table


def add_to(app: typer.Typer) -> None:
    """Make the verb known."""
    app.command()(methods)
