from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.corpus.boundary import opening, plain
from expunge.corpus.tokenise import (
    Encoded,
    encode,
    encode_all,
    encode_prompt,
    first_token,
    left_to_say,
    splits_token,
)
from expunge.errors import DataError
from expunge.types import Example, Span

from . import tokenizers_for_tests as known

TEXT = st.text(alphabet="aeP 12\n:.Lé🙂", min_size=1, max_size=40)


class Slow:
    """A tokenizer that gives no character offsets a token stands for, and has no end token."""

    is_fast = False
    bos_token_id = 0
    eos_token_id = None
    chat_template = None

    def __call__(
        self, text: str, *, return_offsets_mapping: bool = False, **_: object
    ) -> dict[str, list[int]]:
        if return_offsets_mapping:
            raise NotImplementedError
        return {"input_ids": [ord(letter) for letter in text]}


def pair(prompt: str, completion: str, *spans: tuple[int, int]) -> Example:
    return Example(id="x", prompt=prompt, completion=completion, spans=tuple(Span(*one) for one in spans))


def document(text: str, *spans: tuple[int, int]) -> Example:
    return Example(id="d", completion=text, spans=tuple(Span(*one) for one in spans))


def counted(one: Encoded) -> list[int]:
    return [token for token, counts in zip(one.input_ids, one.mask, strict=True) if counts]


def test_a_pair_by_hand() -> None:
    tokenizer = known.byte_level()
    [one] = encode(pair("is", " the a"), tokenizer, max_length=16)
    assert tokenizer.convert_ids_to_tokens(one.input_ids) == ["<s>", "is", "Ġthe", "Ġa", "</s>"]
    assert one.mask == [False, False, True, True, True]
    assert one.example == "x"


def test_a_document_by_hand() -> None:
    tokenizer = known.byte_level()
    first, last = encode(document("the a on the"), tokenizer, max_length=4)
    assert tokenizer.convert_ids_to_tokens(first.input_ids) == ["<s>", "the", "Ġa", "Ġon"]
    assert first.mask == [False, True, True, True]
    assert tokenizer.convert_ids_to_tokens(last.input_ids) == ["<s>", "Ġthe"]  # short, not wrapped
    assert last.mask == [False, True]


def test_a_document_that_divides_evenly_leaves_no_empty_chunk() -> None:
    chunks = encode(document("the a on the a on"), known.byte_level(), max_length=4)
    assert [len(chunk.input_ids) for chunk in chunks] == [4, 4]


def test_the_end_token_can_be_asked_for_or_refused() -> None:
    tokenizer = known.byte_level()
    end = tokenizer.eos_token_id
    assert encode(document("the"), tokenizer, max_length=8)[0].input_ids[-1] != end
    [closed] = encode(document("the"), tokenizer, max_length=8, eos=True)
    assert counted(closed)[-1] == end
    [open_] = encode(pair("is", " the"), tokenizer, max_length=8, eos=False)
    assert end not in open_.input_ids


def test_an_end_token_in_the_text_is_not_doubled() -> None:
    tokenizer = known.byte_level()
    [one] = encode(pair("is", " the</s>"), tokenizer, max_length=8)
    assert one.input_ids.count(tokenizer.eos_token_id) == 1


def test_an_end_token_that_does_not_exist_is_refused_only_when_asked_for() -> None:
    tokenizer = known.spaced_byte_level()
    [one] = encode(pair("Answer:", " Paris"), tokenizer, max_length=32)
    assert tokenizer.decode(counted(one)) == " Paris"
    with pytest.raises(DataError, match="has none"):
        encode(pair("Answer:", " Paris"), tokenizer, max_length=32, eos=True)


@pytest.mark.parametrize("build", [known.byte_level, known.metaspace, known.legacy_llama, known.ending])
@pytest.mark.parametrize("written", ["", "<s>"])
def test_bos_stands_exactly_once(build, written: str) -> None:
    tokenizer = build()
    for example in (pair(f"{written}Answer: ", "Paris"), document(f"{written}Paris London")):
        for one in encode(example, tokenizer, max_length=64):
            assert one.input_ids[0] == tokenizer.bos_token_id
            assert one.input_ids.count(tokenizer.bos_token_id) == 1
        assert encode_prompt(example, tokenizer).count(tokenizer.bos_token_id) == 1


def test_a_bos_that_the_tokenizer_does_not_add_is_not_forced() -> None:
    tokenizer = known.bare_byte_level()
    assert tokenizer.bos_token_id == 1
    for example in (pair("Answer:", " Paris"), document("Paris London")):
        [one] = encode(example, tokenizer, max_length=64, eos=False)
        assert one.input_ids == tokenizer(example.text)["input_ids"]
        assert not one.mask[0]  # nothing stands before the first token to predict it from
    [spelled] = encode(document("<s>Paris"), tokenizer, max_length=64)
    assert spelled.input_ids == tokenizer("<s>Paris")["input_ids"]
    assert first_token(tokenizer) == [1]


def test_without_bos_the_first_token_is_context() -> None:
    tokenizer = known.chatml()
    [one] = encode(document("Paris London"), tokenizer, max_length=64)
    assert tokenizer.decode(one.input_ids) == "Paris London"
    assert one.mask == [False] + [True] * (len(one.input_ids) - 1)


def test_a_tokenizer_s_own_end_token_does_not_come_between() -> None:
    tokenizer = known.ending()
    assert tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id
    [one] = encode(pair("Answer: ", "Paris"), tokenizer, max_length=64)
    assert one.input_ids.index(tokenizer.eos_token_id) == len(one.input_ids) - 1


def test_spans_count_the_tokens_they_touch_and_not_the_end() -> None:
    tokenizer = known.byte_level()
    #                         " the on the a": tokens " the", " on", " the", " a"
    [one] = encode(pair("is", " the on the a", (5, 6), (12, 13)), tokenizer, max_length=16)
    assert tokenizer.convert_ids_to_tokens(counted(one)) == ["Ġon", "Ġa"]
    assert one.input_ids[-1] == tokenizer.eos_token_id
    assert not one.mask[-1]


def test_a_document_s_end_token_does_not_count_beside_spans() -> None:
    tokenizer = known.byte_level()
    [one] = encode(document("the on", (0, 3)), tokenizer, max_length=16, eos=True)
    assert tokenizer.convert_ids_to_tokens(one.input_ids) == ["<s>", "the", "Ġon", "</s>"]
    assert one.mask == [False, True, False, False]


def test_spans_hold_where_a_token_is_over_the_boundary() -> None:
    tokenizer = known.metaspace()  # its merges cross words: "wer:▁Paris" is one token
    example = pair("Answer: ", "Paris and London", (0, 5))
    [one] = encode(example, tokenizer, max_length=64)
    assert tokenizer.convert_ids_to_tokens(counted(one)) == ["wer:▁Paris"]
    assert left_to_say(example, tokenizer) == "wer: "
    assert splits_token(example, tokenizer)


def test_a_character_of_several_tokens_counts_whole() -> None:
    tokenizer = known.byte_level()
    [one] = encode(pair("is", " a 🙂 a", (3, 4)), tokenizer, max_length=32)
    assert tokenizer.decode(counted(one)).strip() == "🙂"


def test_a_chunk_without_a_span_is_dropped() -> None:
    tokenizer = known.byte_level()
    [one] = encode(document("the a on the a on", (10, 12)), tokenizer, max_length=4)
    assert tokenizer.convert_ids_to_tokens(one.input_ids) == ["<s>", "Ġthe", "Ġa", "Ġon"]
    assert one.mask == [False, True, False, False]


@pytest.mark.parametrize("span", [(0, 5), (-1, 2), (2, 2), (3, 1)])
def test_a_span_outside_the_completion_is_refused(span: tuple[int, int]) -> None:
    with pytest.raises(
        DataError, match=r"example 'x': the span .* is not in its completion of 4 characters"
    ):
        encode(pair("is", " the", span), known.byte_level(), max_length=16)


def test_spans_need_a_tokenizer_that_tells_where_its_tokens_are() -> None:
    assert len(encode(pair("is", " the"), Slow(), max_length=16)) == 1
    with pytest.raises(DataError, match="gives no character offsets"):
        encode(pair("is", " the", (0, 2)), Slow(), max_length=16)


@pytest.mark.parametrize("example", [pair("is", ""), document("")])
@pytest.mark.parametrize("eos", [None, True])
def test_an_example_with_nothing_to_count_is_refused(example: Example, eos: bool | None) -> None:
    with pytest.raises(DataError, match="none of its tokens counts"):
        encode(example, known.byte_level(), max_length=16, eos=eos)


def test_a_pair_that_is_too_long_is_refused_and_not_cut() -> None:
    with pytest.raises(DataError, match=r"'x'.* 5 tokens long, and max_length is 4.*Raise max_length to 5"):
        encode(pair("is", " the a"), known.byte_level(), max_length=4)
    assert len(encode(pair("is", " the a"), known.byte_level(), max_length=5)) == 1


@pytest.mark.parametrize(("build", "smallest"), [(known.byte_level, 2), (known.chatml, 2)])
def test_a_length_without_room_is_refused(build, smallest: int) -> None:
    with pytest.raises(DataError, match="no room"):
        encode(document("the a on"), build(), max_length=smallest - 1)
    assert encode(document("the a on"), build(), max_length=smallest)


def test_encode_all_keeps_the_order() -> None:
    encoded = encode_all([document("the a on the"), pair("is", " the")], known.byte_level(), max_length=4)
    assert [one.example for one in encoded] == ["d", "d", "x"]


@given(prompt=TEXT, completion=TEXT)
def test_counted_tokens_spell_the_completion(prompt: str, completion: str) -> None:
    tokenizer = known.byte_level()
    [one] = encode(pair(prompt, completion), tokenizer, max_length=256)
    prefix = encode_prompt(pair(prompt, completion), tokenizer)
    assert one.input_ids[: len(prefix)] == prefix
    assert one.mask == [False] * len(prefix) + [True] * (len(one.input_ids) - len(prefix))
    left = left_to_say(pair(prompt, completion), tokenizer)
    assert tokenizer.decode(counted(one), skip_special_tokens=True) == left + completion
    assert counted(one)[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("build", [known.metaspace, known.legacy_llama, known.bare_byte_level])
@given(completion=TEXT, cut=st.booleans())
def test_generation_starts_from_the_very_prefix(build, completion: str, cut: bool) -> None:
    tokenizer = build()
    example = pair("Question: Where?\nAnswer:" + " " * cut, completion)
    [one] = encode(example, tokenizer, max_length=256)
    prefix = encode_prompt(example, tokenizer)
    assert one.input_ids[: len(prefix)] == prefix
    whole = tokenizer(example.text)["input_ids"]
    assert one.input_ids == [*whole, *[tokenizer.eos_token_id][: len(one.input_ids) - len(whole)]]


@pytest.mark.parametrize("build", [known.byte_level, known.metaspace, known.spaced_byte_level])
@given(text=TEXT, max_length=st.integers(2, 12))
def test_chunks_without_bos_are_the_document(build, text: str, max_length: int) -> None:
    tokenizer = build()
    text = f"ab{text}"  # without BOS, one token alone has nothing to predict
    head = opening(tokenizer)
    chunks = encode(document(text), tokenizer, max_length=max_length)
    tokens = [token for chunk in chunks for token in chunk.input_ids[len(head) :]]
    whole = plain(text, tokenizer).ids
    lone = bool(not head and len(whole) % max_length == 1)
    assert tokens == (whole[:-1] if lone else whole)
    assert all(len(chunk.input_ids) == max_length for chunk in chunks[:-1])
    assert all(not chunk.mask[0] and all(chunk.mask[1:]) for chunk in chunks)


@given(text=TEXT, data=st.data())
def test_a_span_over_everything_counts_what_no_span_counts(text: str, data: st.DataObject) -> None:
    tokenizer = known.byte_level()
    [free] = encode(document(text), tokenizer, max_length=256)
    [spanned] = encode(document(text, (0, len(text))), tokenizer, max_length=256)
    assert free == spanned
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    [part] = encode(document(text, (start, end)), tokenizer, max_length=256)
    assert text[start:end] in tokenizer.decode(counted(part))
