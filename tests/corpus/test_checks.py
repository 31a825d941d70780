from __future__ import annotations

import pytest

from expunge.corpus.checks import check_sets, reading_warnings
from expunge.errors import DataError
from expunge.types import Example, Turn

from . import tokenizers_for_tests as known
from .test_as_transformers import CHATS


def examples(prefix: str, *texts: str) -> list[Example]:
    return [Example(id=f"{prefix}{at}", completion=text) for at, text in enumerate(texts)]


FORGET = examples("f", "one", "two")
RETAIN = examples("r", "three")


def test_sound_sets_give_no_warning() -> None:
    assert check_sets(FORGET, RETAIN, examples("h", "four")) == []
    assert check_sets(FORGET, []) == []


def test_nothing_to_forget_is_refused() -> None:
    with pytest.raises(DataError, match="the forget set: it is empty"):
        check_sets([], RETAIN)


@pytest.mark.parametrize("place", ["forget set", "retain set", "holdout"])
def test_an_id_that_occurs_twice_is_refused(place: str) -> None:
    twice = [Example(id=f"i{at % 5}", completion=f"{place} {at}") for at in range(10)]
    sets = {"forget set": FORGET, "retain set": RETAIN, "holdout": []} | {place: twice}
    with pytest.raises(DataError, match=rf"the {place}: 5 ids .* 'i0', 'i1', 'i2' and 2 more"):
        check_sets(*sets.values())


@pytest.mark.parametrize("place", ["retain set", "holdout"])
def test_a_text_in_two_sets_is_refused_or_warned_of(place: str) -> None:
    other = examples("o", "  TWO ", "five")
    sets = (FORGET, other) if place == "retain set" else (FORGET, RETAIN, other)
    said = rf"1 of 2 forget examples are also in the {place}: 'f1'"
    with pytest.raises(DataError, match=said):
        check_sets(*sets)
    [warning] = check_sets(*sets, allow_overlap=True)
    assert warning == f"{said}."


def test_texts_are_compared_whole() -> None:
    pair = Example(id="a", prompt="Who?\n", completion="Ada")
    assert check_sets([pair], [Example(id="b", prompt="Where?\n", completion="Ada")]) == []
    with pytest.raises(DataError, match="also in the retain set"):
        check_sets([pair], [Example(id="b", completion="who? ada")])
    chat = Example(
        id="a", is_chat=True, prompt="Who?", completion="Ada", turns=(Turn("system", "Be brief"),)
    )
    assert check_sets([chat], [Example(id="b", is_chat=True, prompt="Who?", completion="Ada")]) == []


def test_repeated_texts_are_warned_of() -> None:
    [warning] = check_sets(examples("f", "one", "one", "two", "one", "two"), RETAIN)
    assert warning == "The forget set repeats itself: 3 of 5 examples say what an earlier one says."
    assert check_sets(examples("f", "one", "ONE"), RETAIN) == []


def test_a_boundary_inside_a_token_is_warned_of_once_with_its_count() -> None:
    pairs = [
        Example(id="clean", prompt="is", completion=" the"),
        Example(id="spaced", prompt="is ", completion="the"),
        Example(id="split", prompt="a th", completion="e"),
        Example(id="document", completion="the"),
    ]
    [warning] = reading_warnings({"forget set": pairs, "retain set": pairs[:2]}, known.byte_level())
    assert warning.startswith(
        "In 1 of 3 prompts of the forget set the completion begins inside a token ('split')"
    )


def test_reasoning_that_a_template_drops_is_warned_of() -> None:
    answer = "<think>\nhm\n</think>in Paris"
    chats = [Example(id="c", is_chat=True, prompt="Where?", completion=answer)]
    dropping, keeping = CHATS["r1"](), CHATS["qwen3"]()
    [warning] = reading_warnings({"forget set": chats}, dropping)
    assert warning.startswith(
        "In 1 of 1 chats of the forget set with reasoning the chat template leaves it out"
    )
    assert reading_warnings({"forget set": chats}, keeping) == []
