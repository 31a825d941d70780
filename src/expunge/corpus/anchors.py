"""Anchored terms of a text and their plain replacements: read from a file, or proposed from texts."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import NamedTuple

from expunge.corpus.names import Kind, Name, names_by_language, names_by_rule
from expunge.corpus.readers import read_examples
from expunge.errors import DataError
from expunge.files import anything, claim_file, nothing, write_json
from expunge.parsing import ParseError, load_json

FIRST = (
    "Anna James Maria Robert Laura Thomas Emma Daniel Julia Peter Sarah Paul Helen Martin Alice Simon "
    "Ruth Mark Nina Frank Clare Adam Eva Oliver Kate Henry Lucy George Rachel Edward Sophie Philip Jane "
    "David Susan Michael Carol Andrew Ellen Patrick Irene Stephen Diana Charles Monica Leo Vera Max"
).split()
LAST = (
    "Brown Miller Clark Baker Walker Turner Cooper Carter Fisher Mason Parker Hunter Ward Wood Hill Green "
    "Young King Wright Scott Adams Nelson Mitchell Roberts Phillips Evans Collins Stewart Morris Rogers "
    "Reed Cook Morgan Bell Murphy Bailey Kelly Howard Cox Richardson Watson Brooks Gray Price Bennett Ross"
).split()
PLACES = (
    "Ashford Milton Newport Kingston Bradley Weston Preston Norton Sutton Marston Clifton Stratford "
    "Burton Hampton Langley Morton Wickham Hilton Oakley Stanton Thornton Wells Barton Linton Shelby "
    "Dalton Ripley Selby Malton Buxton Camden Easton Fairview Georgetown Lakewood Midland Riverside"
).split()
TRADES = (
    "Trading Transport Foods Textiles Press Motors Insurance Electric Tools Paper Shipping Travel".split()
)
PARTS: Mapping[Kind, tuple[Sequence[str], ...]] = {
    "person": (FIRST, LAST),
    "name": (FIRST, LAST),
    "place": (PLACES,),
    "organisation": (LAST, TRADES),
}
"""What a replacement of each kind is put together from."""


def pseudonyms(names: Sequence[Name], *, seed: int) -> dict[str, str]:
    """A replacement of the same kind for every name, in their order.

    First and last words of names of persons (and of what is not known) are replaced each by one word
    everywhere: "Mira" is replaced by what "Mira Oswick" begins with. No word of a name replaces
    another, and none is used twice while there are others.
    """
    taken = {word for name in names for word in name.text.split()}
    pools = {kind: _pool(kind, seed, taken) for kind in PARTS}
    replacements: dict[str, str] = {}
    by_word: dict[str, str] = {}
    # Longer names first: they say which words belong together.
    for name in sorted(names, key=lambda name: (-len(name.text.split()), -name.times, name.text)):
        if name.kind in ("place", "organisation"):
            replacements[name.text] = " ".join(next(pools[name.kind]))
            continue
        first, *others = name.text.split()
        ends = [first, *others[-1:]]
        if not by_word.keys() >= set(ends):
            for word, other in zip(ends, next(pools[name.kind]), strict=False):
                by_word.setdefault(word, other)
        replacements[name.text] = " ".join(by_word[word] for word in ends)
    return {name.text: replacements[name.text] for name in names}


def _pool(kind: Kind, seed: int, taken: Collection[str]) -> Iterator[tuple[str, ...]]:
    """Replacements in the parts of their kind, in an order drawn by ``seed``, again and again."""
    draw = random.Random(f"{seed}/{kind}")
    parts = []
    for words in PARTS[kind]:
        free = [word for word in words if word not in taken] or list(words)
        parts.append(draw.sample(free, len(free)))
    for turn in count():
        # All parts advance together: no word repeats before it must, and then in another combination.
        yield tuple(part[(turn + at * (turn // len(part))) % len(part)] for at, part in enumerate(parts))


class Proposal(NamedTuple):
    """A term, what it is a name of, how often it is replaced, and by what."""

    term: str
    kind: Kind
    times: int
    replacement: str


@dataclass(frozen=True, kw_only=True)
class ProposeJob:
    """Proposing anchored terms, as it is asked for on the command line.

    ``spacy`` names a spaCy model that is installed, or its folder; without one, names are runs of
    capitalised words (``expunge.corpus.names``). Names found less often than ``at_least`` are left out.
    Replacements are drawn by ``seed``.
    """

    source: str
    output: Path
    spacy: str | None = None
    at_least: int = 2
    seed: int = 0
    fields: Mapping[str, str] | None = None
    overwrite: bool = False

    def run(self) -> list[Proposal]:
        """Write the terms and their replacements as a JSON object, the commonest first; returns them.

        Counts are of what the stage ``relabel`` will replace: of two terms, the longer one.

        Raises:
            OutputError: the output is there already, or is the source itself.
            DataError: the source cannot be read, or no name is found in it.
        """
        claim_file(self.output, source=self.source, overwrite=self.overwrite)
        examples = read_examples(self.source, fields=self.fields)
        texts = [text for one in examples for text in (one.prompt, one.completion) if text]
        names = names_by_language(texts, self.spacy) if self.spacy else names_by_rule(texts)
        names = [name for name in names if name.times >= self.at_least]
        if not names:
            raise DataError(
                f"no names in {self.source}",
                why=f"nothing that looks like one is found {self.at_least} times or more.",
                fix="Lower --at-least, try another spaCy model (--spacy), or write the file by hand.",
            )
        replacements = pseudonyms(names, seed=self.seed)
        anchors = Anchors(replacements)
        counts = Counter(part.term for text in texts for part in anchors.translate(text).segments)
        proposals = [
            Proposal(name.text, name.kind, counts[name.text], replacements[name.text]) for name in names
        ]
        proposals.sort(key=lambda one: (-one.times, one.term))
        write_json(
            self.output,
            {one.term: one.replacement for one in proposals},
            may_replace=anything if self.overwrite else nothing,
        )
        return proposals


# Anchored terms: expressions that belong to one text alone, and the plain ones to put in their place.

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
        anchors = load_json(path.read_bytes())
    except (OSError, ParseError) as error:
        raise DataError(f"anchors {path}", why=f"it cannot be read as JSON: {error}.", fix=FIX) from error
    if not isinstance(anchors, dict):
        raise DataError(f"anchors {path}", why=f"it holds a {type(anchors).__name__}.", fix=FIX)
    for term, value in anchors.items():
        if not isinstance(value, str) or not term.strip() or not value.strip():
            raise DataError(f"anchors {path}", why=f"{term!r} has no replacement that is text.", fix=FIX)
        if max(len(term), len(value)) > LONGEST:
            raise DataError(
                f"anchors {path}",
                why=f"{term[:40]!r} or its replacement is longer than {LONGEST} characters.",
                fix="Anchors are names and short terms: leave out what is longer.",
            )
    return Anchors(anchors)
