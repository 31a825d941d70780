"""Names in texts, by an installed spaCy model or by a rule of capital letters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any, Literal, NamedTuple

from tqdm.auto import tqdm

from expunge.errors import DataError, MissingExtraError
from expunge.types import Span

ENTITIES = {
    "PERSON": "person",
    "PER": "person",
    "GPE": "place",
    "LOC": "place",
    "FAC": "place",
    "ORG": "organisation",
}
"""What of a spaCy model's entities is a person, a place or an organisation."""


class Entity(NamedTuple):
    """A named range of a text, and spaCy's label of it."""

    label: str
    span: Span


def load_pipeline(name: str) -> Any:
    """The spaCy model of that name or in that folder.

    Raises:
        MissingExtraError: spaCy is not installed.
        DataError: the model is not.
    """
    try:
        import spacy
    except ImportError as error:
        raise MissingExtraError("finding names by a spaCy model", extra="annotate") from error
    try:
        return spacy.load(name)
    except OSError as error:
        raise DataError(
            f"spaCy model {name!r}",
            why="it is not installed, and nothing is downloaded here.",
            fix=f"Run: python -m spacy download {name}",
        ) from error


def entities(pipeline: Any, texts: Sequence[str]) -> Iterator[list[Entity]]:
    """The entities of each text, in order."""
    for read in pipeline.pipe(texts):
        yield [Entity(one.label_, Span(one.start_char, one.end_char)) for one in read.ents]


# Names in texts: by a spaCy model that is installed, or else by a plain rule of capital letters.

Kind = Literal["person", "place", "organisation", "name"]
"""What a name is of; ``name`` where that is not known."""

OTHERS = ("NORP", "PRODUCT", "EVENT", "WORK_OF_ART", "LAW", "LANGUAGE", "MISC")
"""Further entities of spaCy that are names; all others (dates, amounts) are not."""

WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]{2,})*")
PARTICLES = frozenset("of the de di da du del la von van der den".split())
MARKS = " \t\"'“”‘’«»()[]*_–—-"
"""What may stand between the end of a sentence and the first word of the next."""
ENDS = ".!?:…\n"
REACH = 12
"""Characters looked back for the end of the sentence before."""
LONGEST = 100_000
"""Characters a spaCy model is given at once; it refuses a million."""


class Name(NamedTuple):
    """A name as it is written, what it is of, and how often it was found."""

    text: str
    kind: Kind
    times: int


def names_by_language(texts: Sequence[str], model: str) -> list[Name]:
    """What a spaCy model takes for a name; of several kinds of one name the commonest."""
    pipeline = load_pipeline(model)
    pieces = [
        line[start : start + LONGEST]
        for text in texts
        for line in text.splitlines()
        for start in range(0, len(line), LONGEST)
    ]
    found: Counter[tuple[str, Kind]] = Counter()
    read = tqdm(entities(pipeline, pieces), desc="finding names", total=len(pieces), disable=None)
    for piece, marked in zip(pieces, read, strict=True):
        for label, (start, end) in marked:
            kind = _kind(label)
            name = _bare(piece[start:end])
            if kind is not None and any(sign.isupper() for sign in name):
                found[name, kind] += 1
    kinds: dict[str, Kind] = {}
    counts: Counter[str] = Counter()
    for (name, kind), count in found.most_common():
        kinds.setdefault(name, kind)
        counts[name] += count
    return [Name(name, kinds[name], count) for name, count in counts.most_common()]


def names_by_rule(texts: Sequence[str]) -> list[Name]:
    """Runs of capitalised words, with particles inside ("Order of the Phoenix").

    A word is capitalised with two letters or more. The first word of a sentence belongs to a name if it
    is capitalised inside a sentence too, or if the same run of several words comes again and the word is
    never written small. A word alone is no name where it is written small as often. In languages that
    capitalise every noun, that is too much.
    """
    runs = [run for text in texts for run in _runs(text)]
    again = Counter(run.words for run in runs)
    inside = {word for run in runs for word in (run.words[1:] if run.opens else run.words)}
    small = Counter(word for text in texts for word in WORD.findall(text) if not word[0].isupper())

    def first_belongs(run: _NameRun) -> bool:
        first = run.words[0]
        recurs = len(run.words) > 1 and again[run.words] > 1 and not small[first.lower()]
        return not run.opens or first in inside or recurs

    trimmed = (run.words if first_belongs(run) else _without_first(run.words) for run in runs)
    counts = Counter(words for words in trimmed if words)
    return [
        Name(" ".join(words), "name", count)
        for words, count in counts.most_common()
        if len(words) > 1 or small[words[0].lower()] < count
    ]


class _NameRun(NamedTuple):
    """Words of one run, and whether the first begins a sentence."""

    words: tuple[str, ...]
    opens: bool


def _runs(text: str) -> Iterator[_NameRun]:
    """Stretches of words with one space between them that begin and end with a capitalised one."""
    words = list(WORD.finditer(text))
    gaps = [text[one.end() : two.start()] == " " for one, two in pairwise(words)]
    part = 0
    numbers = []
    for index, word in enumerate(words):
        known = _capital(word[0]) or word[0] in PARTICLES
        if not known or (index and not gaps[index - 1]):
            part += 1
        numbers.append(part if known else None)
    for number, group in groupby(zip(numbers, words, strict=True), key=lambda pair: pair[0]):
        run = [word for _, word in group]
        while run and not _capital(run[-1][0]):
            run.pop()
        while run and not _capital(run[0][0]):
            run.pop(0)
        if number is not None and run:
            at = run[0].start()
            before = text[max(0, at - REACH) : at].rstrip(MARKS)
            opens = not before or before[-1] in ENDS
            yield _NameRun(tuple(word[0] for word in run), opens)


def _capital(word: str) -> bool:
    return len(word) > 1 and word[0].isupper()


def _without_first(words: tuple[str, ...]) -> tuple[str, ...]:
    """What is left behind the first word, from the next capitalised one on."""
    rest = words[1:]
    while rest and not _capital(rest[0]):
        rest = rest[1:]
    return rest


def _kind(label: str) -> Kind | None:
    known: dict[str, Kind] = {"person": "person", "place": "place", "organisation": "organisation"}
    return "name" if label in OTHERS else known.get(ENTITIES.get(label, ""))


def _bare(name: str) -> str:
    """The name without an article or a possessive around it."""
    return re.sub(r"^(?:the|a|an)\s+|(?:['’]s|['’])$", "", " ".join(name.split()), flags=re.IGNORECASE)
