from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.corpus.formats import write_examples
from expunge.corpus.readers import read_examples
from expunge.errors import DataError
from expunge.types import Example, Span, Turn

WORDS = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20
).filter(lambda text: any(letter.isprintable() and not letter.isspace() for letter in text))
OTHERS = st.fixed_dictionaries(
    {"wrong": st.lists(WORDS, min_size=1, max_size=3).map(tuple), "correct_index": st.integers(0, 1)}
) | st.fixed_dictionaries({"paraphrase": st.none() | WORDS})


@st.composite
def examples(draw: st.DrawFn) -> Example:
    completion = draw(WORDS)
    chat = draw(st.booleans())
    turns = draw(
        st.lists(st.builds(Turn, st.sampled_from(["system", "user", "assistant"]), WORDS), max_size=3)
    )
    prompt = draw(WORDS if turns and turns[-1].role == "user" else st.just("") | WORDS)
    start = draw(st.integers(0, len(completion) - 1))
    return Example(
        id=draw(WORDS),
        completion=completion,
        prompt=prompt,
        spans=draw(st.sampled_from([(), (Span(start, len(completion)),)])),
        group=draw(st.none() | WORDS),
        turns=tuple(turns) if chat else (),
        is_chat=chat,
        **draw(OTHERS),
    )


@settings(max_examples=20)
@given(written=st.lists(examples(), min_size=1, max_size=5))
def test_what_is_written_reads_back_the_same(written: list[Example]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "forget.jsonl"
        write_examples(path, written)
        assert read_examples(path) == written


def test_the_lines_are_plain_to_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "forget.jsonl"
    write_examples(
        path, [Example(id="a", completion="é", group="g"), Example(id="b", prompt="p", completion="c")]
    )
    assert path.read_text(encoding="utf-8") == (
        '{"id": "a", "text": "é", "group": "g"}\n{"id": "b", "prompt": "p", "completion": "c"}\n'
    )


@pytest.mark.parametrize(
    "example",
    [
        Example(id="a", completion="c", turns=(Turn("user", "u"),)),
        Example(id="a", completion="c", turns=(Turn("user", "u"),), is_chat=True),
    ],
)
def test_turns_that_no_messages_stand_for_are_refused(tmp_path: Path, example: Example) -> None:
    with pytest.raises(DataError, match="example 'a': it"):
        write_examples(tmp_path / "forget.jsonl", [example])
    assert not (tmp_path / "forget.jsonl").exists()
