"""``expunge methods``: list recipes and their components, or show the YAML of one recipe."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from expunge.terminal import Terminal


def methods(
    name: Annotated[
        str | None,
        typer.Argument(help="Recipe to show as YAML; with --settings, a component. Default: list all."),
    ] = None,
    long: Annotated[
        bool, typer.Option("--long", "-l", help="Also show a description and the full source of each.")
    ] = False,
    axes: Annotated[
        bool,
        typer.Option("--axes", help="List losses, scopes, adversaries, stages, quantizers and attacks."),
    ] = False,
    settings: Annotated[
        bool, typer.Option("--settings", help="Explain the settings of component NAME (npo, lora, gcg).")
    ] = False,
) -> None:
    """List the methods, show the YAML of one, or list the components that methods are made of.

    Save the printed YAML, change it, and pass the file to [bold]unlearn --recipe[/].

    Example:  expunge methods npo_klr_sure > mine.yaml

    Example:  expunge methods --axes; expunge methods npo --settings
    """
    if axes:
        _print_axes()
        return
    if settings:
        _print_settings(name)
        return
    from expunge.catalogue import recipe_text

    console = Terminal()
    if name is not None:
        text = _checked(name, recipe_text(name))
        if console.is_terminal:
            console.print(Syntax(text, "yaml", background_color="default", word_wrap=True))
        else:
            typer.echo(text, nl=False)  # unmodified, so that it can be redirected to a file
        return
    console.print(_table(long=long))
    console.print(
        "A method is forget loss × retain loss × scope × adversary, or stages: --axes lists them."
    )


def _checked(name: str, text: str) -> str:
    """The text of a recipe that is YAML: printed as it is, a control character would reach the terminal."""
    from expunge.errors import RecipeError
    from expunge.parsing import ParseError, load_yaml

    try:
        load_yaml(text)
    except ParseError as error:
        raise RecipeError(
            f"recipe {name}",
            why=f"it is not valid YAML: {error}.",
            fix="'expunge methods npo_klr' shows one.",
        ) from error
    return text


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


def _print_axes() -> None:
    from expunge.train.axes import AXES, members

    console = Terminal()
    for kind in AXES:
        table = Table(
            title=kind, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False
        )
        table.add_column("name", no_wrap=True)
        table.add_column("what it does", overflow="fold")
        table.add_column("settings", overflow="fold", style="dim")
        for member in members(kind):
            fields = ", ".join(
                f"{setting.name}={setting.default}" if setting.default else setting.name
                for setting in member.settings
            )
            table.add_row(member.name, Text(member.summary.replace("``", "")), Text(fields))
        console.print(table)
    console.print("expunge methods NAME --settings explains the settings of one.")


def _print_settings(name: str | None) -> None:
    from expunge.errors import RecipeError
    from expunge.train.axes import find_members

    if name is None:
        raise RecipeError(
            "--settings without a name",
            why="it shows the settings of a single component.",
            fix="Name one, for instance: expunge methods npo --settings; --axes lists them.",
        )
    console = Terminal()
    for member in find_members(name):
        console.print(Text.assemble((member.name, "bold"), f" ({member.kind}): {member.summary}"))
        table = Table(box=box.SIMPLE_HEAD, show_edge=False)
        for heading in ("setting", "type", "default", "meaning"):
            table.add_column(heading, overflow="fold")
        for setting in member.settings:
            table.add_row(*map(Text, setting))
        console.print(table)


def add_to(app: typer.Typer, section: str) -> None:
    """Register the command under a section of the program's help."""
    app.command(rich_help_panel=section)(methods)
