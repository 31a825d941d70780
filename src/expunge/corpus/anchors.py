"""Anchored terms: expressions that belong to one text alone, and the plain ones to put in their place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from expunge.errors import DataError
from expunge.parsing import ParseError, load_json

FIX = 'Write a JSON object of strings, each a term and its replacement: {"Mira Oswick": "Anna Brown"}.'


class Segment(NamedTuple):
    """A stretch ``[start, end)`` of a text and ``[at, to)`` of its translation; its term, if anchored."""

    start: int
    end: int
    at: int
    to: int
    term: str | None


class Translation(NamedTuple):
    """A text with its anchored terms replaced, and which stretch became which."""

    text: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Anchors:
    """Replacements by term. Matched as whole words, longest first; a capitalised term keeps its capital.

    Source: Eldan and Russinovich 2023 (arXiv 2310.02238), Sec. 3.2.
    """

    replacements: Mapping[str, str]

    def translate(self, text: str) -> Translation:
        """``text`` with every anchored term replaced."""
        segments: list[Segment] = []
        pieces: list[str] = []
        end = at = 0

        def add(piece: str, until: int, term: str | None) -> None:
            nonlocal end, at
            if until > end:
                segments.append(Segment(end, until, at, at + len(piece), term))
                pieces.append(piece)
                end, at = until, at + len(piece)

        for match in self._pattern.finditer(text) if self.replacements else ():
            add(text[end : match.start()], match.start(), None)
            add(*self._replacement(match[0], match.end()))
        add(text[end:], len(text), None)
        return Translation("".join(pieces), tuple(segments))

    def _replacement(self, found: str, until: int) -> tuple[str, int, str]:
        if found in self.replacements:
            return self.replacements[found], until, found
        term = found[0].lower() + found[1:]
        value = self.replacements[term]
        return value[0].upper() + value[1:], until, term

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        capitals = (term[0].upper() + term[1:] for term in self.replacements)
        forms = sorted({*self.replacements, *capitals}, key=lambda form: (-len(form), form))
        return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, forms))})(?!\w)")


LONGEST = 1000
"""Characters of a term or its replacement: every mention in a text is replaced."""


def read_anchors(path: Path) -> Anchors:
    """The anchored terms in a JSON file.

    Raises:
        DataError: the file cannot be read, or does not map terms to replacements.
    """
    try:
        found = load_json(path.read_bytes())
    except (OSError, ParseError) as error:
        raise DataError(f"anchors {path}", why=f"it cannot be read as JSON: {error}.", fix=FIX) from error
    if not isinstance(found, dict):
        raise DataError(f"anchors {path}", why=f"it holds a {type(found).__name__}.", fix=FIX)
    for term, value in found.items():
        if not isinstance(value, str) or not term.strip() or not value.strip():
            raise DataError(f"anchors {path}", why=f"{term!r} has no replacement that is text.", fix=FIX)
        if max(len(term), len(value)) > LONGEST:
            raise DataError(
                f"anchors {path}",
                why=f"{term[:40]!r} or its replacement is longer than {LONGEST} characters.",
                fix="Anchors are names and short terms: leave out what is longer.",
            )
    return Anchors(found)
