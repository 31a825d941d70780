"""``expunge``: the verbs, and how a refusal looks."""

from __future__ import annotations

import sys
import traceback

import click
import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

import expunge
from expunge.cli import audit, demo, doctor, finetune, methods, quantize, unlearn
from expunge.errors import ExpungeError

REFUSED, BROKEN, INTERRUPTED = 2, 1, 130

app = typer.Typer(
    name="expunge",
    help="Make a language model forget, and prove that it stays forgotten where it is deployed.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (demo, unlearn, audit, quantize, finetune, methods, doctor):
    verb.add_to(app)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"expunge {expunge.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
    debug: bool = typer.Option(
        False, "--debug", help="Show the traceback of an error; goes before the verb."
    ),
) -> None:
    """Start with [bold]expunge demo[/], or [bold]expunge VERB --help[/]."""


def run() -> None:
    """The entry point: every error becomes one screen and an exit code."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """Carry out a command line and return its exit code."""
    debug = "--debug" in arguments
    try:
        outcome = app(arguments, standalone_mode=False)
    except ExpungeError as error:
        _report(error, debug=debug)
        return REFUSED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        Console(stderr=True).print(
            "\nInterrupted. Repeat the same command to go on from the last checkpoint."
        )
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last line of defence: no traceback unless asked for
        _report_bug(error, debug=debug)
        return BROKEN
    return outcome if isinstance(outcome, int) else 0


def _report(error: ExpungeError, *, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    message = Text.assemble((error.what, "bold"), "\n", error.why, "\n", (error.fix, "green"))
    Console(stderr=True).print(Panel(message, title="refused", border_style="red", expand=False))


def _report_bug(error: Exception, *, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    message = Text.assemble(
        (f"{type(error).__name__}: {error}", "bold"),
        "\nThis should not happen, and nothing was overwritten.\n",
        ("Run it again as 'expunge --debug ...' and report the traceback.", "green"),
    )
    Console(stderr=True).print(Panel(message, title="internal error", border_style="red", expand=False))
