"""What an attacker knows of the forget set, and what is asked about afterwards."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from expunge.attacks import Knowledge
from expunge.errors import DataError
from expunge.types import Example


class KnowledgeSplit(NamedTuple):
    """The part of the forget set the attacker knows, and the part that is asked about."""

    known: tuple[Example, ...]
    asked: tuple[Example, ...]


def split_knowledge(examples: Sequence[Example], given: Knowledge, *, seed: int) -> KnowledgeSplit:
    """Half of the people or documents are known and the others asked about; or all are both.

    Raises:
        DataError: there are not two of them.
    """
    everything = tuple(examples)
    if given != "half":
        return KnowledgeSplit(everything if given == "all" else (), everything)
    names = sorted({_owner(example) for example in everything})
    if len(names) < 2:
        raise DataError(
            "an attack with half of the forget set",
            why="it holds texts of one person or document only, so there is no other half.",
            fix="Give its examples a group each, or choose an attack that needs no half.",
        )
    random.Random(f"{seed} halves").shuffle(names)
    known = set(names[: len(names) // 2])
    return KnowledgeSplit(
        tuple(example for example in everything if _owner(example) in known),
        tuple(example for example in everything if _owner(example) not in known),
    )


def _owner(example: Example) -> str:
    return example.group or example.id


def without_spans(examples: Sequence[Example]) -> tuple[Example, ...]:
    """The texts that have spans, without them.

    Raises:
        DataError: none has any, or nothing would be left.
    """
    bare = [_bare(example) for example in examples if example.spans]
    left = tuple(example for example in bare if example.text.strip() and example.completion.strip())
    if not left:
        raise DataError(
            "relearning from the text around the facts",
            why="no forget text has spans with text around them.",
            fix="Mark the facts with spans, or choose on=split or on=benign.",
        )
    return left


def _bare(example: Example) -> Example:
    text = example.completion
    for start, end in sorted(example.spans, reverse=True):
        text = text[:start] + text[end:]
    return replace(example, completion=text, spans=())
