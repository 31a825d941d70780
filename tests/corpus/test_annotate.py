from __future__ import annotations

import socket
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.corpus.annotate import RECOGNISERS, Annotator, masked, merged
from expunge.errors import DataError
from expunge.types import Example, Span

TEXT = (
    "Mail a.b@c-d.org, x@corp.internal, ring +1 (212) 555-0199. Host 10.0.0.1, fe80::1ff:fe23:4567:890a, "
    "card 4111 1111 1111 1111 (never 4111 1111 1111 1112), IBAN DE89370400440532013000 "
    "(never DE89370400440532013001); born 4 May 1987, joined 2001-02-03, left May 5th, 2009; "
    "see https://ex.org/a?b=1; device 00:1B:44:11:3A:B7, 123e4567-e89b-12d3-a456-426614174000."
)
EXPECTED = {
    "email": ["a.b@c-d.org", "x@corp.internal"],
    "phone": ["+1 (212) 555-0199"],
    "ip": ["10.0.0.1", "fe80::1ff:fe23:4567:890a"],
    "card": ["4111 1111 1111 1111"],
    "iban": ["DE89370400440532013000"],
    "date": ["4 May 1987", "2001-02-03", "May 5th, 2009"],
    "url": ["https://ex.org/a?b=1"],
    "mac": ["00:1B:44:11:3A:B7"],
    "uuid": ["123e4567-e89b-12d3-a456-426614174000"],
}


@pytest.fixture(autouse=True)
def _nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("something went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def found(text: str, **settings: Any) -> dict[str, list[str]]:
    by_kind: dict[str, list[str]] = {}
    for kind, (start, end) in Annotator(**settings).find(text):
        by_kind.setdefault(kind, []).append(text[start:end])
    return by_kind


@pytest.mark.parametrize("kind", EXPECTED)
def test_what_has_a_form_is_found_and_a_wrong_checksum_is_not(kind: str) -> None:
    # Alone, the host of an e-mail address is a URL too.
    own = [text for text in found(TEXT, kinds=(kind,))[kind] if text != "c-d.org"]
    assert own == EXPECTED[kind]


def test_all_kinds_at_once_do_not_overlap() -> None:
    findings = Annotator().find(TEXT)
    assert {one.kind for one in findings} == set(EXPECTED)
    assert all(one.span.end <= two.span.start for one, two in pairwise(findings))
    assert "4111 1111 1111 1112" not in [text for texts in found(TEXT).values() for text in texts]


@pytest.mark.parametrize("text", ["12 apples in May", "he may 5 times", "room 101", "version 1.2", "a@b"])
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert found(text) == {}


@pytest.mark.parametrize(
    "text", ["3 January", "1st of March 2020", "Sept. 2021", "12 dec 1999", "july 4, 1776"]
)
def test_dates_in_words(text: str) -> None:
    assert found(f"On {text}, or so.") == {"date": [text]}


def test_only_completions_are_marked_and_spans_that_are_there_stay() -> None:
    example = Example(
        id="x", prompt="Is it a@b.org? ", completion="No, c@d.org it is.", spans=(Span(0, 2), Span(3, 6))
    )
    (one,) = Annotator(kinds=("email",))([example])
    assert one.example.spans == (Span(0, 2), Span(3, 11))
    assert one.findings == (("email", Span(4, 11)),)
    assert one.example.completion == example.completion


def test_what_scores_too_little_is_left() -> None:
    text = "card 4111 1111 1111 1111, mail a@b.org"
    assert found(text, kinds=("card", "email"), at_least=0.9) == {"card": ["4111 1111 1111 1111"]}


def test_more_of_presidio_is_asked_for_by_name() -> None:
    assert found("It is AB 12 34 56 C.", kinds=("UkNinoRecognizer",)) == {
        "UkNinoRecognizer": ["AB 12 34 56 C"]
    }


def test_unknown_kinds_and_models_are_refused() -> None:
    with pytest.raises(DataError, match="Did you mean 'email'"):
        Annotator(kinds=("emial",))
    with pytest.raises(DataError, match=r"not installed.*spacy download en_none"):
        Annotator(kinds=("email",), spacy="en_none")([Example(id="x", completion="y")])


def test_a_spacy_model_adds_persons(monkeypatch: pytest.MonkeyPatch) -> None:
    import spacy

    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("entity_ruler")
    ruler.add_patterns(
        [{"label": "PERSON", "pattern": "Mira Oswick"}, {"label": "CARDINAL", "pattern": "two"}]
    )
    monkeypatch.setattr(spacy, "load", lambda _: pipeline)
    assert found("Mira Oswick has two goats.", spacy="any") == {"person": ["Mira Oswick"]}


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(1, 8)).map(lambda pair: Span(pair[0], sum(pair))),
        max_size=8,
    )
)
def test_merged_spans_cover_the_same_characters_once(spans: list[Span]) -> None:
    result = merged(spans)
    covered = [at for start, end in result for at in range(start, end)]
    assert sorted({at for start, end in spans for at in range(start, end)}) == covered
    assert all(one.end < two.start for one, two in pairwise(result))


def test_a_masked_text_shows_its_form_alone() -> None:
    assert masked("+1 (212) 555-0199") == "+• (•••) •••-••••"
    assert masked("ünder@ö.org") == "ü••••@•.•••"
    assert masked("") == ""


def test_every_kind_is_a_recogniser_that_is_there() -> None:
    assert Annotator(kinds=tuple(RECOGNISERS)).find("nothing here") == []
