"""Sensitive spans of common identifiers: what has a fixed form is found by patterns and checksums."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field, field_validator

from expunge.component import Component
from expunge.corpus.names import ENTITIES, entities, load_pipeline
from expunge.errors import DataError, MissingExtraError, did_you_mean
from expunge.types import Span

if TYPE_CHECKING:
    from expunge.types import Example

RECOGNISERS = {
    "card": "CreditCardRecognizer",
    "crypto": "CryptoRecognizer",
    "date": "DateRecognizer",
    "email": "EmailRecognizer",
    "iban": "IbanRecognizer",
    "ip": "IpRecognizer",
    "mac": "MacAddressRecognizer",
    "phone": "PhoneRecognizer",
    "url": "UrlRecognizer",
    "us_ssn": "UsSsnRecognizer",
    "uuid": "UuidRecognizer",
}
"""What each kind is called in Presidio. More of its recognisers are asked for by their class names."""

_MONTH = (
    r"(?:(?i:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?|M(?:ay|AY))"  # "may" is another word
)
WRITTEN_DATE = re.compile(
    rf"\b(?:\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH}(?:,?\s+\d{{4}})?"
    rf"|{_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?(?:,?\s+\d{{4}})?\b|{_MONTH}\s+\d{{4}})(?!\w)"
)
"""Dates with the month in English words, which Presidio leaves to a language model."""


class Finding(NamedTuple):
    """A sensitive range of an example's completion, and what it is."""

    kind: str
    span: Span


class Marked(NamedTuple):
    """An example with its spans, and what each new one was found to be."""

    example: Example
    findings: tuple[Finding, ...]


class Annotator(Component):
    """Marks identifiers of the given kinds in completions, offline; spans that are there stay."""

    kinds: tuple[str, ...] = Field(
        default=tuple(RECOGNISERS),
        description="Kinds of identifiers, or names of Presidio's recognisers (UkNinoRecognizer).",
    )
    at_least: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.3,
        description=(
            "The lowest score that is marked, 0-1: checksums pass with 1, a bare form with 0.3 to 0.6."
        ),
    )
    spacy: str | None = Field(
        default=None,
        description="An installed spaCy model, which adds persons, places and organisations; null: none.",
    )

    @field_validator("kinds")
    @classmethod
    def _kinds_are_known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        offered = vars(_presidio())
        for kind in kinds:
            if kind not in RECOGNISERS and kind not in offered:
                known = [*RECOGNISERS, *(name for name in offered if name.endswith("Recognizer"))]
                raise DataError(
                    f"kind {kind!r}",
                    why="nothing of that name can be recognised.",
                    fix=did_you_mean(kind, known if len(kind) > 3 else RECOGNISERS),
                )
        return kinds

    def __call__(self, examples: Iterable[Example]) -> list[Marked]:
        """Every example with what was found in it."""
        return [self._annotated(example) for example in examples]

    def _annotated(self, example: Example) -> Marked:
        findings = tuple(self.find(example.completion))
        spans = merged((*example.spans, *(finding.span for finding in findings)))
        return Marked(replace(example, spans=spans), findings)

    def find(self, text: str) -> list[Finding]:
        """What is sensitive in a text, in its order; of two findings that overlap, the longer one."""
        findings = [one for recognise in self._recognisers for one in recognise(text)]
        kept: list[Finding] = []
        for one in sorted(
            findings, key=lambda finding: (finding.span.start - finding.span.end, finding.span.start)
        ):
            if all(one.span.end <= other.span.start or other.span.end <= one.span.start for other in kept):
                kept.append(one)
        return sorted(kept, key=lambda finding: finding.span.start)

    @cached_property
    def _recognisers(self) -> list[Callable[[str], Sequence[Finding]]]:
        made: list[Callable[[str], Sequence[Finding]]] = [self._by_pattern(kind) for kind in self.kinds]
        if "date" in self.kinds:
            made.append(_written_dates)
        return [*made, _by_language(self.spacy)] if self.spacy else made

    def _by_pattern(self, kind: str) -> Callable[[str], list[Finding]]:
        recogniser = _recogniser(RECOGNISERS.get(kind, kind))

        def recognise(text: str) -> list[Finding]:
            results = recogniser.analyze(text, recogniser.supported_entities)
            likely = [
                _without_stop(text, one.start, one.end) for one in results if one.score >= self.at_least
            ]
            return [Finding(kind, span) for span in likely if not _cuts_a_word(text, span)]

        return recognise


def merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The same characters as spans in order that neither overlap nor touch."""
    spans_out: list[Span] = []
    for span in sorted(spans):
        if spans_out and span.start <= spans_out[-1].end:
            spans_out[-1] = Span(spans_out[-1].start, max(spans_out[-1].end, span.end))
        else:
            spans_out.append(span)
    return tuple(spans_out)


def masked(text: str) -> str:
    """The form of an identifier, without what it says: its first sign and its punctuation."""
    return text[:1] + "".join("•" if sign.isalnum() else sign for sign in text[1:])


def _presidio() -> Any:
    try:
        from presidio_analyzer import predefined_recognizers
    except ImportError as error:
        raise MissingExtraError("annotating identifiers", extra="annotate") from error
    return predefined_recognizers


def _recogniser(name: str) -> Any:
    """A recogniser of Presidio that uses no network."""
    offered = _presidio()
    if name != "EmailRecognizer":
        return getattr(offered, name)()

    class Offline(offered.EmailRecognizer):  # type: ignore[name-defined]
        """Addresses by their form: checking the suffix would fetch a list, and lose x@corp.internal."""

        def validate_result(self, pattern_text: str) -> bool | None:  # noqa: ARG002
            return None

    return Offline()


def _without_stop(text: str, start: int, end: int) -> Span:
    """The range without the punctuation of its sentence."""
    return Span(start, start + len(text[start:end].rstrip(".,;:!?")))


def _cuts_a_word(text: str, span: Span) -> bool:
    """Whether it ends amid letters: 'corp.int' of 'corp.internal'."""
    return text[span.end - 1].isalnum() and text[span.end : span.end + 1].isalnum()


def _written_dates(text: str) -> list[Finding]:
    return [Finding("date", Span(*match.span())) for match in WRITTEN_DATE.finditer(text)]


def _by_language(name: str) -> Callable[[str], list[Finding]]:
    pipeline = load_pipeline(name)

    def recognise(text: str) -> list[Finding]:
        (named,) = entities(pipeline, [text])
        return [Finding(ENTITIES[one.label], one.span) for one in named if one.label in ENTITIES]

    return recognise
