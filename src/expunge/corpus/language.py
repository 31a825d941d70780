"""Named entities by an installed spaCy model; nothing is ever downloaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

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
