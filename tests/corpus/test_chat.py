from __future__ import annotations

import pytest

from expunge.corpus.tokenise import encode, encode_prompt
from expunge.errors import DataError
from expunge.types import Example, Span, Turn

from . import tokenizers_for_tests as known

CHAT = Example(
    id="c",
    is_chat=True,
    turns=(Turn("system", "be brief"), Turn("user", "hello"), Turn("assistant", "yes?")),
    prompt="Where does Ada live?",
    completion="Paris",
)
MESSAGES = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "yes?"},
    {"role": "user", "content": "Where does Ada live?"},
]


def spelled(one, tokenizer) -> str:
    return tokenizer.decode(
        [token for token, counts in zip(one.input_ids, one.mask, strict=True) if counts]
    )


def test_the_answer_and_its_end_token_count() -> None:
    tokenizer = known.chatml()
    [one] = encode(CHAT, tokenizer, max_length=256)
    assert spelled(one, tokenizer) == "Paris<|im_end|>"
    assert tokenizer.decode(one.input_ids).endswith("<|im_start|>assistant\nParis<|im_end|>")


def test_the_prefix_is_what_the_template_asks_generation_to_start_from() -> None:
    tokenizer = known.chatml()
    served = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True)["input_ids"]
    prefix = encode_prompt(CHAT, tokenizer)
    assert prefix == served
    assert encode(CHAT, tokenizer, max_length=256)[0].input_ids[: len(prefix)] == prefix


@pytest.mark.parametrize("answer", ["im", "end", "assistant", " Paris ", "|"])
def test_the_answer_is_found_whatever_it_says(answer: str) -> None:
    example = Example(id="c", is_chat=True, prompt="who", completion=answer)
    [one] = encode(example, known.chatml(), max_length=256)
    assert spelled(one, known.chatml()) == f"{answer.strip()}<|im_end|>"  # the template trims


def test_a_template_that_writes_bos_gets_no_second_one() -> None:
    tokenizer = known.llama2_chat()
    example = Example(id="c", is_chat=True, prompt="Where?", completion="Paris")
    [one] = encode(example, tokenizer, max_length=256)
    assert one.input_ids.count(tokenizer.bos_token_id) == 1
    assert one.input_ids[0] == tokenizer.bos_token_id
    assert one.input_ids[-1] == tokenizer.eos_token_id
    assert one.mask[-1]
    assert spelled(one, tokenizer).split() == ["Paris", "</s>"]


def test_a_template_without_an_end_leaves_it_to_the_end_token() -> None:
    tokenizer = known.chatml()
    saved = tokenizer.chat_template
    try:
        tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        [one] = encode(CHAT, tokenizer, max_length=256)
    finally:
        tokenizer.chat_template = saved
    assert spelled(one, tokenizer) == " Paris<|endoftext|>"


def test_a_template_that_also_quotes_the_answer_earlier_is_cut_at_the_answer() -> None:
    tokenizer = known.chatml()
    saved = tokenizer.chat_template
    try:
        tokenizer.chat_template = "{{ messages[-1].content }}?{{ messages[-1].content }}<|im_end|>"
        [one] = encode(CHAT, tokenizer, max_length=256)
    finally:
        tokenizer.chat_template = saved
    assert spelled(one, tokenizer) == "Paris<|im_end|>"


def test_spans_and_eos_hold_in_a_chat() -> None:
    example = Example(id="c", is_chat=True, prompt="who", completion="Paris London", spans=(Span(6, 12),))
    [one] = encode(example, known.chatml(), max_length=256)
    assert spelled(one, known.chatml()).strip() == "London"
    [one] = encode(CHAT, known.chatml(), max_length=256, eos=False)
    assert spelled(one, known.chatml()) == "Paris"
    assert one.mask[-1]


def test_a_chat_is_bounded_by_max_length() -> None:
    with pytest.raises(DataError, match=r"'c'.*Raise max_length"):
        encode(CHAT, known.chatml(), max_length=10)


def test_a_tokenizer_without_template_is_refused_with_the_way_out() -> None:
    with pytest.raises(DataError, match=r"no chat template.*give prompt and completion"):
        encode(CHAT, known.byte_level(), max_length=256)


def test_a_template_that_refuses_the_messages_is_quoted() -> None:
    with pytest.raises(DataError, match=r"'c'.*Only user and assistant here"):
        encode(CHAT, known.llama2_chat(), max_length=256)


def test_a_template_that_leaves_the_answer_out_is_refused() -> None:
    tokenizer = known.chatml()
    saved = tokenizer.chat_template
    try:
        tokenizer.chat_template = "{{ messages[0].content }}"
        with pytest.raises(DataError, match="leaves the assistant's last message out"):
            encode(CHAT, tokenizer, max_length=256)
    finally:
        tokenizer.chat_template = saved
