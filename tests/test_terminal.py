"""Text of users on a terminal: shown, never obeyed, and never longer than a screen."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from expunge.errors import QUOTED, DataError, printable, shortened
from expunge.terminal import Terminal, echo, message_panel

ESCAPES = "a\x1b[31mb\x9b2Jc\rd\x08e\u202ef\u2066g\x00h"
PACKAGE = Path(__file__).parents[1] / "src" / "expunge"
LINES, WIDTH = 24, 80


def test_what_a_terminal_would_obey_is_taken_out() -> None:
    assert printable(ESCAPES) == "a[31mb2Jcdefgh"
    assert printable("tab\tand\nline, na\u00efve, \u4f60\u597d \U0001f469\u200d\U0001f52c") == (
        "tab\tand\nline, na\u00efve, \u4f60\u597d \U0001f469\u200d\U0001f52c"
    )
    assert printable("x\ud800y\u2028z\ufeff") == "x\ufffdy z"
    assert all(printable(chr(code)) == "" for code in range(0x80, 0xA0))


def test_the_middle_of_a_long_text_goes() -> None:
    assert shortened("abc", 3) == "abc"
    assert shortened("a" * 40 + "z" * 40, 20) == "a" * 10 + " ... " + "z" * 5


def test_a_refusal_is_printable_and_bounded() -> None:
    error = DataError("x" * 10**6, why=ESCAPES, fix="z" * 10**6)
    assert error.why == "a[31mb2Jcdefgh"
    assert len(error.what) == len(error.fix) == QUOTED
    assert len(str(error)) < 3 * QUOTED


@pytest.mark.parametrize("text", ["word " * 10**5, "x" * 10**6, "a\n" * 10**4, "\u4f60" * 10**4])
@pytest.mark.parametrize("long", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_refusal_fits_a_screen(text: str, long: tuple[int, ...]) -> None:
    parts = [(text if number in long else "short.", "bold") for number in range(3)]
    terminal = Terminal(width=WIDTH, is_plain=True)
    with terminal.capture() as capture:
        terminal.print(message_panel(parts, title="refused", console=terminal))
    lines = capture.get().splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= WIDTH
    assert sum("short." in line for line in lines) == 3 - len(long)


def test_a_short_refusal_is_shown_whole() -> None:
    parts = [("What", "bold"), ("why\nand why", ""), ("fix", "green")]
    terminal = Terminal(width=WIDTH, is_plain=True)
    with terminal.capture() as capture:
        terminal.print(message_panel(parts, title="refused", console=terminal))
    assert [line.strip("│ ") for line in capture.get().splitlines()[1:-1]] == [
        "What",
        "why",
        "and why",
        "fix",
    ]


def test_cells_and_lines_hold_no_escapes_and_no_markup() -> None:
    terminal = Terminal(width=WIDTH)
    table = Table(f"[red]{ESCAPES}", show_edge=False)
    table.add_row(Text(ESCAPES, style="bold"))
    table.add_row("[/] :smile:")
    with terminal.capture() as capture:
        terminal.print(table)
        terminal.print(f"[bold]{ESCAPES}")
    shown = capture.get()
    assert not set(shown) & set("\x1b\x9b\r\x08\u202e\u2066\x00")
    assert shown.count("a[31mb2Jcdefgh") == 3
    assert "[red]a" in shown
    assert "[bold]a" in shown
    assert "[/] :smile:" in shown


def test_colours_are_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = Terminal(width=WIDTH)
    with terminal.capture() as capture:
        terminal.print(Text(f"done {ESCAPES}", style="green"))
    assert capture.get() == "\x1b[32mdone a[31mb2Jcdefgh\x1b[0m\n"


def test_echo_writes_one_printable_line(capsys: pytest.CaptureFixture[str]) -> None:
    echo(ESCAPES)
    echo("next", end="")
    assert capsys.readouterr().out == "a[31mb2Jcdefgh\nnext"


def test_nothing_writes_to_a_terminal_past_this() -> None:
    """A plain console, ``typer.echo`` or ``print`` would show what a user's text holds."""
    allowed = {("cli/methods.py", "typer.echo")}  # a recipe byte for byte, where no terminal reads it
    used = {
        (str(path.relative_to(PACKAGE)), ast.unparse(node.func))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "typer.echo", "Console"}
    }
    assert used == allowed
