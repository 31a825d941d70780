"""Refusals: what was asked, why it cannot work, and what to change."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

QUOTED = 2000
"""Characters of each part of a refusal; a data file may hold a word of a megabyte."""
CUT = " ... "
HIDDEN: dict[int, str | None] = {
    **dict.fromkeys((*range(0x20), *range(0x7F, 0xA0))),  # C0 and C1: terminals obey them
    # What turns the direction of text around.
    **dict.fromkeys((0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))),
    **dict.fromkeys((0xFEFF, *range(0xE0000, 0xE0080))),  # byte order mark, invisible tags
    **dict.fromkeys((0x2028, 0x2029), " "),  # line and paragraph separators
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),  # half characters, which no file can store
}
del HIDDEN[ord("\n")], HIDDEN[ord("\t")]
"""Characters that a terminal would obey, or that would hide or reorder text; what is shown instead."""


def printable(text: str) -> str:
    """``text`` as it may be shown: nothing in it moves a cursor, changes a colour or turns text around."""
    return text if text.isascii() and text.isprintable() else text.translate(HIDDEN)


def shortened(text: str, limit: int) -> str:
    """``text`` of at most ``limit`` characters: what is longer loses its middle."""
    if len(text) <= limit:
        return text
    tail = (limit - len(CUT)) // 3
    return f"{text[: limit - len(CUT) - tail]}{CUT}{text[len(text) - tail :]}"


class ExpungeError(Exception):
    """A refusal a user can act on.

    ``what`` names the thing refused, ``why`` the reason, ``fix`` what to change. Each may quote what a user
    wrote: control characters are taken out, and what is longer than ``QUOTED`` is cut in its middle.
    """

    def __init__(self, what: str, *, why: str, fix: str) -> None:
        what, why, fix = (shortened(printable(part), QUOTED) for part in (what, why, fix))
        super().__init__(f"{what}: {why} {fix}")
        self.what = what
        self.why = why
        self.fix = fix

    def __reduce__(self) -> tuple[Any, ...]:
        """How a refusal comes back whole from a worker process."""
        return _again, (type(self), self.what, self.why, self.fix)


def _again(kind: type[ExpungeError], what: str, why: str, fix: str) -> ExpungeError:
    error = kind.__new__(kind)
    ExpungeError.__init__(error, what, why=why, fix=fix)
    return error


class DataError(ExpungeError):
    """The forget set, the retain set or a file of either cannot be used."""


class ModelError(ExpungeError):
    """A checkpoint or tokenizer cannot be used."""


class RecipeError(ExpungeError):
    """A recipe is unknown, malformed, or combines what cannot be combined."""


class OutputError(ExpungeError):
    """The result cannot be written where it was asked for."""


class TrainingError(ExpungeError):
    """Training started and cannot continue (for instance, because the loss is not a number)."""


class ScopeViolationError(ExpungeError):
    """A weight outside the scope changed; the guarantee is broken."""


class MissingExtraError(ExpungeError):
    """An optional backend is not installed."""

    def __init__(self, what: str, *, extra: str) -> None:
        super().__init__(
            what,
            why=f"it needs the optional extra '{extra}', which is not installed.",
            fix=f'Run: pip install "expunge[{extra}]"',
        )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence with the nearest known words, or with all of them when none is near."""
    candidates = sorted(known)
    near = difflib.get_close_matches(word, candidates, n=3, cutoff=0.6)
    if near:
        return f"Did you mean {' or '.join(repr(name) for name in near)}?"
    return f"Known: {', '.join(candidates)}."
