"""What a page may show of texts and names: all of it, or nothing but the shape."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from expunge.score.leak import segments, shape

if TYPE_CHECKING:
    from collections.abc import Iterable

    from expunge.report.items import Item

TEXT_BUDGET = 4_000_000
"""Characters of text a page carries."""
CAPS = (100_000, 20_000, 4_000, 1_000, 400, 150, 60)
"""Characters kept of one text: the first of these with which all texts fit."""

Shown = str | tuple[str, ...]
"""A text, or an answer cut where the leaked words begin and end."""


class Pool(Protocol):
    """Turns texts and names into what the page shows of them."""

    def text(self, text: str) -> Shown:
        """A prompt or a truth."""

    def said(self, truth: str, said: str) -> Shown:
        """An answer with its leaked words."""

    def name(self, kind: str, name: str) -> str:
        """What an item or a group is called."""


@dataclass
class Masked:
    """No text and no name: words as marks, items and groups by number in the order of the audit."""

    numbers: dict[tuple[str, str], str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def text(self, text: str) -> Shown:
        """The number of words, and nothing of what they are."""
        return shape("", text)

    def said(self, truth: str, said: str) -> Shown:
        """Which words are leaked, and nothing of what they are."""
        return _shape(truth, said)

    def name(self, kind: str, name: str) -> str:
        """The kind and a number."""
        if (kind, name) not in self.numbers:
            self.counts[kind] += 1
            self.numbers[kind, name] = f"{kind} {self.counts[kind]}"
        return self.numbers[kind, name]


@dataclass
class Revealed:
    """Texts as they are, cut after ``cap`` characters so that a page stays light."""

    cap: int

    def text(self, text: str) -> Shown:
        """The text as it is."""
        return clip(text, self.cap)

    def said(self, truth: str, said: str) -> Shown:
        """The answer cut where marking begins and ends."""
        return _segments(clip(truth, self.cap), clip(said, self.cap))

    def name(self, kind: str, name: str) -> str:  # noqa: ARG002
        """The name as it is."""
        return name


def pool_for(items: Iterable[Item], *, reveal: bool) -> Pool:
    """What is shown of the items' texts; the longest ones are cut if they are too much for a page."""
    if not reveal:
        return Masked()
    lengths = [len(text) for text in {text for item in items for text in item.texts}]
    fitting = (cap for cap in CAPS if sum(min(length, cap) for length in lengths) <= TEXT_BUDGET)
    return Revealed(next(fitting, CAPS[-1]))


def clip(text: str, cap: int) -> str:
    """A text, or its beginning and how much more there is."""
    more = len(text) - cap
    return text if more <= 0 else f"{text[:cap]}… [{more:,} more characters in the Parquet file]"


@lru_cache(maxsize=1 << 16)
def _shape(truth: str, said: str) -> str:
    return shape(truth, said)


@lru_cache(maxsize=1 << 16)
def _segments(truth: str, said: str) -> tuple[str, ...]:
    return tuple(segments(truth, said)) if said else ()
