"""Text from data and records, made fit for a terminal: no control characters, no more than a screen."""

from __future__ import annotations

import re
import unicodedata

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 and C1 but tab and line feed, what ends lines or turns the writing direction, and lone surrogates."""


def printable(text: str) -> str:
    r"""The same text with control characters as ``\x1b``: a terminal would obey them.

    Lone surrogates, which no stream can encode, are written the same way.
    """
    return _UNPRINTABLE.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def shortened(text: str, most: int, *, lines: int = 8) -> str:
    """Text of at most about ``most`` columns: its beginning and its end, and how much is left out.

    Text of more than ``lines`` lines becomes one paragraph first.
    """
    if text.count("\n") >= lines:
        text = " ".join(text[: 20 * most].split()) + (" ..." if len(text) > 20 * most else "")
    if len(text) * 2 <= most:
        return text
    width = sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
    if width <= most:
        return text
    kept = int(len(text) * most / width)
    end = kept // 4
    left_out = f" ... [{len(text) - kept:,} characters] ... "
    return f"{text[: kept - end - len(left_out)]}{left_out}{text[len(text) - end :]}"
