"""Lines the verbs print: their marks have colours, their text is what it is."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from expunge.printing import printable


def say_done(text: str) -> None:
    """A line on standard output: the result is there.

    Brackets in names are no markup, and long paths stay on one line.
    """
    Console().print(Text.assemble(("done", "green"), " ", printable(text)), soft_wrap=True)


def say_warning(text: str) -> None:
    """A line on standard error."""
    Console(stderr=True).print(Text.assemble(("warning", "yellow"), " ", printable(text)), soft_wrap=True)
