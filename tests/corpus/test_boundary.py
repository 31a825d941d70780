from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from expunge.corpus.boundary import continuation, joined, opening, plain
from expunge.errors import DataError
from tests.tiny import tiny_tokenizer

from . import tokenizers_for_tests as known

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

EXACT = [known.byte_level, known.metaspace, known.legacy_llama, known.spaced_byte_level]
TEXT = st.text(alphabet="aeP 12\n:.Lé🙂", min_size=1, max_size=12)


def texts(ids: list[int], tokenizer: PreTrainedTokenizerFast) -> list[str]:
    return tokenizer.convert_ids_to_tokens(ids)


def test_a_space_at_the_end_of_a_prompt_belongs_to_the_completion() -> None:
    tokenizer = known.byte_level()
    parts = joined("is in ", "the a", tokenizer)
    assert texts(parts.prompt_ids, tokenizer) == ["is", "Ġin"]
    assert texts(parts.completion.ids, tokenizer) == ["Ġthe", "Ġa"]
    assert parts.completion.offsets == [(0, 3), (3, 5)]  # of the completion's own characters
    assert parts.left == " "
    assert not parts.splits_token
    spaced = joined("is in", " the a", tokenizer)
    assert spaced.prompt_ids + spaced.completion.ids == parts.prompt_ids + parts.completion.ids


@pytest.mark.parametrize("prompt", ["in ", "in  ", "in\n", "in\n\n", "in\t", " ", ""])
@pytest.mark.parametrize("completion", ["the", "P", "1", "é"])
@pytest.mark.parametrize("build", [known.byte_level, known.trimming_byte_level, known.spaced_byte_level])
def test_white_space_at_a_prompt_s_end_is_cut_alike_whatever_follows(
    build, prompt: str, completion: str
) -> None:
    tokenizer = build()
    alone, followed = joined(prompt, "", tokenizer), joined(prompt, completion, tokenizer)
    assert followed.prompt_ids == alone.prompt_ids
    assert followed.left == alone.left
    assert not followed.splits_token
    assert followed.prompt_ids + followed.completion.ids == plain(prompt + completion, tokenizer).ids


def test_a_token_over_the_boundary_belongs_to_the_completion_and_is_told() -> None:
    tokenizer = known.byte_level()
    assert texts(plain("a the", tokenizer).ids, tokenizer) == ["a", "Ġthe"]
    parts = joined("a th", "e", tokenizer)
    assert texts(parts.prompt_ids, tokenizer) == ["a"]
    assert texts(parts.completion.ids, tokenizer) == ["Ġthe"]
    assert parts.completion.offsets == [(0, 1)]
    assert parts.splits_token
    assert parts.left == " th"


def test_an_unknown_token_over_the_boundary_belongs_to_the_completion() -> None:
    # Unigram fuses unknown characters: "ÀÉ" is one <unk>, just as "À" is.
    tokenizer = known.unigram()
    assert len(plain("ÀÉ", tokenizer).ids) == len(plain("À", tokenizer).ids)
    parts = joined("À", "É", tokenizer)
    assert parts.completion.ids[-1:] == [tokenizer.unk_token_id]
    assert parts.splits_token


def test_offsets_count_from_the_completion() -> None:
    natural = joined("is", " the é", known.byte_level()).completion
    assert natural.offsets == [(0, 4), (4, 5), (5, 6), (5, 6)]


@pytest.mark.parametrize("build", EXACT)
@given(prompt=TEXT, completion=TEXT)
def test_the_two_parts_are_the_tokens_of_the_text(build, prompt: str, completion: str) -> None:
    tokenizer = build()
    parts = joined(prompt, completion, tokenizer)
    whole = plain(prompt + completion, tokenizer)
    assert parts.prompt_ids + parts.completion.ids == whole.ids
    assert prompt.endswith(parts.left)
    # No token of the prompt has a character of the completion.
    assert all(end <= len(prompt) for _, end in whole.offsets[: len(parts.prompt_ids)])
    if not parts.splits_token:
        assert parts.prompt_ids == joined(prompt, "", tokenizer).prompt_ids


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
        (known.bare_byte_level, []),
        (known.metaspace, [1]),
        (known.ending, [1]),
        (known.spaced_byte_level, []),
        (known.chatml, []),
    ],
)
def test_what_opens_a_text_is_what_the_tokenizer_puts_there(build, expected: list[int]) -> None:
    assert opening(build()) == expected


def test_an_expression_that_backtracks_for_ever_is_a_refusal(capfd: pytest.CaptureFixture[str]) -> None:
    tokenizer = tiny_tokenizer(all_bytes=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+b"), "isolated")
    with pytest.raises(DataError, match=r"the text 'aaaa.*tokenizer fails on it.*pre_tokenizer"):
        plain("a" * 40, tokenizer)
    capfd.readouterr()  # where it stood in Rust
