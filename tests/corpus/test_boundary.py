from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.corpus.boundary import continuation, joined, opening, plain

from . import tokenizers_for_tests as known

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

EXACT = [known.byte_level, known.metaspace, known.legacy_llama, known.spaced_byte_level]
TEXT = st.text(alphabet="aeP 12\n:.Lé🙂", min_size=1, max_size=12)


def texts(ids: list[int], tokenizer: PreTrainedTokenizerFast) -> list[str]:
    return tokenizer.convert_ids_to_tokens(ids)


def test_a_completion_after_a_trailing_space_gains_no_space() -> None:
    tokenizer = known.metaspace("always")
    alone = texts(plain("Paris", tokenizer).ids, tokenizer)
    assert alone[0].startswith("▁")  # what tokenising the answer alone would have put in
    prompt, completion = joined("Question: Where?\nAnswer: ", "Paris", tokenizer)
    assert "".join(texts(completion.ids, tokenizer)) == "Paris"
    assert texts(prompt, tokenizer)[-1].endswith("▁")
    assert tokenizer.decode(prompt + completion.ids) == "Question: Where?\nAnswer: Paris"


def test_the_natural_segmentation_is_kept_where_it_can_be() -> None:
    tokenizer = known.byte_level()
    prompt, completion = joined("is", " the", tokenizer)
    assert prompt + completion.ids == plain("is the", tokenizer).ids
    assert texts(completion.ids, tokenizer) == ["Ġthe"]


def test_a_merge_over_the_boundary_is_not_taken() -> None:
    tokenizer = known.byte_level()
    assert texts(plain("the", tokenizer).ids, tokenizer) == ["the"]
    prompt, completion = joined("th", "e", tokenizer)
    assert texts(prompt, tokenizer) == ["th"]
    assert texts(completion.ids, tokenizer) == ["e"]


def test_an_unknown_token_does_not_swallow_the_completion() -> None:
    # Unigram fuses unknown characters: "ÀÉ" is one <unk>, just as "À" is.
    tokenizer = known.unigram()
    assert len(plain("ÀÉ", tokenizer).ids) == len(plain("À", tokenizer).ids)
    _, completion = joined("À", "É", tokenizer)
    assert completion.ids == [tokenizer.unk_token_id]


def test_offsets_count_from_the_completion() -> None:
    tokenizer = known.byte_level()
    natural = joined("is", " the é", tokenizer).completion
    assert natural.offsets == [(0, 4), (4, 5), (5, 6), (5, 6)]
    apart = joined("th", "es a", tokenizer).completion
    assert apart.offsets == [(0, 2), (2, 4)]


@pytest.mark.parametrize("build", EXACT)
@given(prompt=TEXT, completion=TEXT)
def test_the_two_parts_spell_the_text(build, prompt: str, completion: str) -> None:
    tokenizer = build()
    prompt = f"Q{prompt}"  # a leading space is not kept by tokenizers that put one there themselves
    parts = joined(prompt, completion, tokenizer)
    assert parts.prompt_ids == plain(prompt, tokenizer).ids
    assert tokenizer.decode(parts.prompt_ids + parts.completion.ids).strip(" ") == (
        prompt + completion
    ).strip(" ")
    assert tokenizer.decode(parts.prompt_ids + parts.completion.ids).endswith(completion)


@pytest.mark.parametrize("build", EXACT)
@given(text=TEXT)
def test_a_continuation_s_offsets_cover_its_text(build, text: str) -> None:
    offsets = continuation(text, build()).offsets
    assert offsets is not None
    covered = {character for start, end in offsets for character in range(start, end)}
    assert covered == set(range(len(text)))


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (known.byte_level, [1]),
        (known.bare_byte_level, [1]),
        (known.metaspace, [1]),
        (known.ending, [1]),
        (known.spaced_byte_level, []),
        (known.chatml, []),
    ],
)
def test_bos_opens_a_text_exactly_once(build, expected: list[int]) -> None:
    assert opening(build()) == expected
