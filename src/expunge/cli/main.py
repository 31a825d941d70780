"""``expunge``: the command line program, and how it reports errors."""

from __future__ import annotations

import os
import re
import sys
import traceback
import warnings
from functools import cache
from typing import Any

import typer
from typer import rich_utils

import expunge
from expunge.cli import (
    anchors,
    annotate,
    attack,
    audit,
    demo,
    doctor,
    finetune,
    inspect,
    ledger,
    merge,
    methods,
    metrics,
    quantize,
    report,
    runs,
    shards,
    sweep,
    unlearn,
)
from expunge.cli.advice import fitting, typed_verb
from expunge.errors import ExpungeError, OutputError, printable, shortened
from expunge.quiet import quiet_loggers, start_light
from expunge.terminal import Terminal, echo, message_panel

REFUSED, BROKEN, INTERRUPTED = 2, 1, 130
DEBUG = "--debug"
USAGE_CHARACTERS = 700
"""Maximum length of a usage error, so that it fits on a screen below the usage line."""
USAGE_ERROR: type[Any] = typer.BadParameter.__mro__[1]
ANY_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]
"""``UsageError`` and ``ClickException``: typer has a copy of click or uses it, depending on its version."""
OUT_OF_MEMORY = ExpungeError(
    "there is not enough memory",
    why="the inputs or the model are larger than what is free.",
    fix="Use smaller inputs or a machine with more memory.",
)

LINE_BREAK = re.compile(r"(?<!\n)\n(?!\n)")
"""One within a paragraph."""

app = typer.Typer(
    name="expunge",
    help="Make a language model forget, and prove that it stays forgotten where it is deployed.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
SECTIONS = {
    "Forget and audit": (demo, unlearn, audit, attack, report, inspect, sweep),
    "Prepare data and models": (finetune, annotate, anchors),
    "Other ways to forget, and deployment": (merge, shards, quantize),
    "Look up": (runs, ledger, methods, metrics, doctor),
}
for section, verbs in SECTIONS.items():
    for verb in verbs:
        verb.add_to(app, section)


def _version(requested: bool) -> None:
    if requested:
        echo(f"expunge {expunge.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
    debug: bool = typer.Option(False, DEBUG, help="Show tracebacks and library log output."),
) -> None:
    """Start with [bold]expunge demo[/], or see [bold]expunge COMMAND --help[/]."""


def run() -> None:
    """The entry point: every error becomes one screen and an exit code."""
    start_light()
    if DEBUG not in sys.argv:
        quiet_libraries()
    sys.exit(main(sys.argv[1:]))


def quiet_libraries() -> None:
    """Suppress log output and warnings of libraries.

    Environment variables also reach worker processes. Values set by the user are kept.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    quiet_loggers()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


def main(arguments: list[str]) -> int:
    """Run a command line and return its exit code."""
    debug = DEBUG in arguments  # accepted anywhere: users tend to append it to the command
    try:
        return _carried_out([argument for argument in arguments if argument != DEBUG])
    except ExpungeError as error:
        _report(error, arguments, debug=debug)
        return REFUSED
    except OSError as error:  # path too long, permission denied, disk full
        _report(_refusal(error), arguments, debug=debug)
        return REFUSED
    except MemoryError:
        _report(OUT_OF_MEMORY, arguments, debug=debug)
        return REFUSED
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 - the last line of defence; a Rust panic is no Exception
        _report_bug(error, debug=debug)
        return BROKEN


@cache
def _command() -> Any:
    """The program as a click command; cached, because building it takes a tenth of a second."""
    command = typer.main.get_command(app)
    _join_lines(command)
    return command


def _join_lines(command: Any) -> None:
    """Let the terminal wrap the paragraphs of a help text, which typer breaks where the source does."""
    command.help = LINE_BREAK.sub(" ", command.help or "")
    for inside in getattr(command, "commands", {}).values():
        _join_lines(inside)


def _carried_out(arguments: list[str]) -> int:
    try:
        code = _command()(arguments, prog_name="expunge", standalone_mode=False)
    except SystemExit as end:
        code = end.code
    except ANY_USAGE_ERROR as error:
        return _report_usage(error)
    except typer.Abort:
        code = INTERRUPTED
    if code == INTERRUPTED:
        _report_interruption()
    return code if isinstance(code, int) else 0


def _report_usage(error: Any) -> int:
    """Report a usage error in typer's format; it quotes the arguments, so it is made printable."""
    if len(missing := _missing(error)) > 1:
        message = f"Missing {', '.join(missing[:-1])} and {missing[-1]}."
        error = USAGE_ERROR(message, ctx=error.ctx)
    error.message = shortened(printable(error.message), USAGE_CHARACTERS)
    rich_utils.rich_format_error(error)
    return int(error.exit_code)


def _missing(error: Any) -> list[str]:
    """What is required and was not given, if the error is that something is."""
    parameter = getattr(error, "param", None)
    if error.ctx is None or not getattr(parameter, "required", False):
        return []
    unseen = [
        each for each in error.ctx.command.params if each.required and each.name not in error.ctx.params
    ]
    return [f"{each.param_type_name} '{each.opts[0]}'" for each in unseen] if parameter in unseen else []


def _refusal(error: OSError) -> ExpungeError:
    return OutputError(
        str(error.filename) if error.filename else "a file or folder",
        why=f"the operating system reports: {error.strerror or error}.",
        fix="Check the path, its permissions and the free disk space.",
    )


def _report_interruption() -> None:
    Terminal(stderr=True).print(
        "\nInterrupted. Repeat the same command to resume from the last checkpoint."
    )


def _report(error: ExpungeError, arguments: list[str], *, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    fix = fitting(error.fix, typed_verb(_command(), arguments))
    _show([(error.what, "bold"), (error.why, ""), (fix, "green")], title="refused")


def _report_bug(error: BaseException, *, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    parts = [
        (f"{type(error).__name__}: {error}", "bold"),
        ("This should not happen, and nothing was overwritten.", ""),
        ("Run it again as 'expunge --debug ...' and report the traceback.", "green"),
    ]
    _show(parts, title="internal error")


def _show(parts: list[tuple[str, str]], *, title: str) -> None:
    terminal = Terminal(stderr=True)
    terminal.print(message_panel(parts, title=title, console=terminal))
