"""Refusals: what was asked, why it cannot work, and what to change."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class ExpungeError(Exception):
    """A refusal a user can act on.

    ``what`` names the thing refused, ``why`` the reason, ``fix`` what to change.
    """

    def __init__(self, what: str, *, why: str, fix: str) -> None:
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
    """Training started and cannot go on (a loss that is not a number, say)."""


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
