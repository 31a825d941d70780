"""Lines the verbs print: their marks have colours, their text is what it is."""

from __future__ import annotations

from rich.text import Text

from expunge.terminal import Terminal


def say_done(text: str) -> None:
    """A line on standard output: the result is there.

    Brackets in names are no markup, and long paths stay on one line.
    """
    Terminal().print(Text.assemble(("done", "green"), " ", text), soft_wrap=True)


def say_warning(text: str) -> None:
    """A line on standard error."""
    Terminal(stderr=True).print(Text.assemble(("warning", "yellow"), " ", text), soft_wrap=True)
