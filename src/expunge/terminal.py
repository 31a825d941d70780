"""What the program writes to a terminal, where text of users must not be obeyed or hide anything."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderableType
from rich.panel import Panel
from rich.segment import Segment
from rich.text import Text

from expunge.errors import QUOTED, printable, shortened

REFUSAL_LINES = 20
"""Lines of text in a refusal: with its border, and a line for the prompt, it fits a screen of 80x24."""
SHARES = (4, 9, 7)
"""How many of them each part keeps where all three are long: what, why, what to change."""


class Terminal(Console):
    """A Rich console that reads no markup in text and lets no control character of it through.

    Rich itself strips only five control characters, and reads ``[red]`` or ``[/]`` in a file's name as
    markup, which it obeys or fails on. Colours come from styles; markup, where it is meant, is asked for
    with ``print(..., markup=True)``. ``is_plain``: no colours, whatever it writes to.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None, is_plain: bool = False) -> None:
        super().__init__(
            stderr=stderr,
            width=width,
            markup=False,
            emoji=False,
            no_color=True if is_plain else None,
            force_terminal=False if is_plain else None,
            legacy_windows=False if is_plain else None,
        )

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of a renderable; all but Rich's own control codes are made printable."""
        return (
            segment if segment.control else Segment(printable(segment.text), segment.style)
            for segment in super().render(renderable, options)
        )


def echo(text: str = "", *, end: str = "\n") -> None:
    """A line on standard output, as it is but for control characters; it is never wrapped."""
    sys.stdout.write(printable(text) + end)
    sys.stdout.flush()


def message_panel(parts: Sequence[tuple[str, str]], *, title: str, console: Console) -> Panel:
    """Three parts, each with a style, in a red box that fits on a screen.

    Where they are too long together, those beyond their share are cut in their middle: a refusal may quote
    a text of any length.
    """
    width = console.width - 4
    texts = [shortened(printable(text), QUOTED) for text, _ in parts]
    if _lines(texts, width, console) > REFUSAL_LINES:
        texts = [
            _fitted(" ".join(text.split()), share, width, console)
            for text, share in zip(texts, SHARES, strict=True)
        ]
    pieces = ((text, style) for text, (_, style) in zip(texts, parts, strict=True))
    return Panel(Text.assemble(*_joined(pieces)), title=title, border_style="red", expand=False)


def _joined(pieces: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for number, piece in enumerate(pieces):
        yield from (("\n", ""), piece) if number else (piece,)


def _lines(texts: Iterable[str], width: int, console: Console) -> int:
    return sum(len(Text(text).wrap(console, width)) for text in texts)


def _fitted(text: str, lines: int, width: int, console: Console) -> str:
    """``text`` cut to a number of lines; words are not broken, so the number of characters is tried."""
    limit = lines * width
    text = shortened(text, limit)
    while _lines([text], width, console) > lines:
        limit = limit * 9 // 10
        text = shortened(text, limit)
    return text
