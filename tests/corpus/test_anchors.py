from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.corpus.aligned import AlignedTokens, align
from expunge.corpus.anchors import Anchors, read_anchors
from expunge.corpus.tokenise import encode
from expunge.errors import DataError
from expunge.types import Example, Span
from tests.tiny import BOS, tiny_tokenizer

TOKENIZER = tiny_tokenizer(all_bytes=True)
WORLD = Anchors({"Mira": "Jo", "Mira Oswick": "Anna Brown", "the broom game": "football"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mira Oswick met Mira.", "Anna Brown met Jo."),
        ("The broom game and the broom game", "Football and football"),
        ("Admiral Miranda is not mira", "Admiral Miranda is not mira"),
        ("", ""),
        ("Mira", "Jo"),
    ],
)
def test_terms_are_whole_words_longest_first_and_keep_a_capital(text: str, expected: str) -> None:
    assert WORLD.translate(text).text == expected


@given(st.lists(st.sampled_from(["Mira", "Mira Oswick", "the broom game", " ", "x.", "é", "\n"])))
def test_segments_tile_both_texts(words: list[str]) -> None:
    text = " ".join(words)
    found = WORLD.translate(text)
    assert "".join(text[s.start : s.end] for s in found.segments) == text
    assert "".join(found.text[s.at : s.to] for s in found.segments) == found.text
    for segment in found.segments:
        same = text[segment.start : segment.end] == found.text[segment.at : segment.to]
        assert same == (segment.term is None)


def document(text: str, *spans: Span) -> Example:
    return Example(id="x", completion=text, spans=spans)


def one(example: Example, anchors: Anchors = WORLD, max_length: int = 400) -> AlignedTokens:
    (found,) = align(example, anchors, TOKENIZER, max_length=max_length)
    return found


def tokens(found: AlignedTokens) -> list[tuple[str, str]]:
    """Each marked token and its partner."""
    marked = [i for i, counts in zip(found.original.input_ids, found.original.mask, strict=True) if counts]
    return [
        (TOKENIZER.decode([token]), TOKENIZER.decode([found.translated[place]]))
        for token, place in zip(marked, found.partners, strict=True)
    ]


def test_without_anchors_a_text_is_its_own_translation() -> None:
    for example in (document("A goat sat."), Example(id="q", prompt="Who?", completion=" a goat")):
        found = one(example, Anchors({}))
        (plain,) = encode(example, TOKENIZER, max_length=400, eos=False)
        assert found.original == plain
        assert found.translated == plain.input_ids
        assert found.partners == [i for i, counts in enumerate(plain.mask) if counts]
        assert found.seen == [frozenset()] * len(found.partners)


def test_unanchored_tokens_meet_themselves_and_a_term_meets_the_beginning_of_its_replacement() -> None:
    text = "So Mira ate. Then Mira ran."
    found = one(document(text))
    pairs = tokens(found)
    changed = [pair for pair in pairs if pair[0] != pair[1]]
    assert changed == [("M", "J")]  # once: from the second occurrence on a term counts no more
    assert "".join(own for own, _ in pairs) == "So M ate. Then  ran."
    assert TOKENIZER.decode(found.translated[1:]) == "So Jo ate. Then Jo ran."
    assert found.translated[0] == BOS
    after = [bool(seen) for seen in found.seen]
    assert after == [False] * 4 + [True] * (len(after) - 4)


def test_a_longer_replacement_shifts_what_follows() -> None:
    anchors = Anchors({"Al": "Albertine"})
    found = one(document("Al sat"), anchors)
    longer = len(TOKENIZER("Albertine sat").input_ids) - len(TOKENIZER("Al sat").input_ids)
    assert longer > 2
    assert len(found.translated) == len(found.original.input_ids) + longer
    assert "".join(own for own, _ in tokens(found)) == "A sat"
    marked = [at for at, counts in enumerate(found.original.mask) if counts]
    assert [place - at for place, at in zip(found.partners, marked, strict=True)] == [0] + [longer] * (
        len(marked) - 1
    )


def test_each_piece_of_a_long_document_has_its_own_translation_and_its_own_first_occurrence() -> None:
    text = "Mira ate bread. " * 4
    length = len(TOKENIZER("Mira ate bread. ").input_ids)
    pieces = align(document(text), WORLD, TOKENIZER, max_length=length)
    assert len(pieces) == 4
    for piece in pieces:
        assert piece.original.input_ids[0] == BOS
        assert TOKENIZER.decode(piece.translated[1:]) == "Jo ate bread. "
        assert tokens(piece)[0] == ("M", "J")


def test_a_prompt_is_translated_and_only_the_completion_counts() -> None:
    found = one(Example(id="q", prompt="Who is Mira?", completion=" Mira Oswick, a cook"))
    assert TOKENIZER.decode(found.translated[1:]) == "Who is Jo? Anna Brown, a cook"
    assert tokens(found)[:3] == [(" ", " "), ("M", "A"), (",", ",")]


def test_spans_say_what_counts() -> None:
    found = one(document("A goat sat.", Span(2, 6)))
    assert tokens(found) == [("g", "g"), ("o", "o"), ("at", "at")]


def test_what_cannot_be_aligned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a chat"):
        align(Example(id="c", completion="x", is_chat=True), WORLD, TOKENIZER, max_length=64)
    with pytest.raises(DataError, match="never cut silently"):
        align(Example(id="q", prompt="Who?", completion=" a goat"), WORLD, TOKENIZER, max_length=8)
    path = tmp_path / "anchors.json"
    for bad in ("[1]", '{"a": 1}', '{" ": "x"}', "{", '{"a": ""}'):
        path.write_text(bad)
        with pytest.raises(DataError, match="anchors"):
            read_anchors(path)
    path.write_text(json.dumps({"Mira": "Jo"}))
    assert read_anchors(path) == Anchors({"Mira": "Jo"})


@pytest.mark.parametrize("anchors", [{"Ada": "x" * 1001}, {"x" * 1001: "Ada"}])
def test_a_text_in_place_of_a_term_is_refused(anchors: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "anchors.json").write_text(json.dumps(anchors))
    with pytest.raises(DataError, match="longer than 1000 characters"):
        read_anchors(tmp_path / "anchors.json")
