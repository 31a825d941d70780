"""Which words of an answer are leaked: those of its longest common subsequence with the truth.

The words are Unicode letters and digits, case folded, so that text of any script is marked; ROUGE
itself, which gives the score, counts a-z and 0-9 alone.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rapidfuzz.distance import LCSseq

_WORD = re.compile(r"\w+")


class LeakedWord(NamedTuple):
    """A word of an answer: its position and whether it is leaked."""

    start: int
    end: int
    leaked: bool


def leaked_words(truth: str, reply: str) -> list[LeakedWord]:
    """The words of ``said`` in their order, each with whether the truth has it in the same order."""
    truth_words = [match[0].casefold() for match in _WORD.finditer(truth)]
    words = list(_WORD.finditer(reply))
    said_words = [match[0].casefold() for match in words]
    numbers = {word: number for number, word in enumerate({*truth_words, *said_words})}
    truth_ids, said_ids = ([numbers[word] for word in side] for side in (truth_words, said_words))
    common = {
        index
        for block in LCSseq.opcodes(truth_ids, said_ids)
        if block.tag == "equal"
        for index in range(block.dest_start, block.dest_end)
    }
    return [LeakedWord(*match.span(), index in common) for index, match in enumerate(words)]


def segments(truth: str, reply: str) -> list[str]:
    """``said`` split into alternating parts: plain, leaked, plain, leaked, ..."""
    parts, at, ends = [""], 0, False
    for word in leaked_words(truth, reply):
        if word.leaked != ends:
            # The text between two leaked words belongs to the mark; before the first it does not.
            cut = word.start if word.leaked else at
            parts[-1] += reply[at:cut]
            parts.append("")
            at, ends = cut, word.leaked
        parts[-1] += reply[at : word.end]
        at = word.end
    if ends and at < len(reply):
        parts.append("")
    parts[-1] += reply[at:]
    return parts


def shape(truth: str, reply: str, *, most: int = 48) -> str:
    """An answer without its words: ``#`` for each leaked one, ``.`` for each other, ``+`` for more."""
    words = leaked_words(truth, reply)
    marks = "".join("#" if word.leaked else "." for word in words[:most])
    return marks + ("+" if len(words) > most else "")
