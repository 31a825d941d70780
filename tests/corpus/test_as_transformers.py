"""Texts and chats in tokens are those of transformers alone, for tokenizers and templates of many kinds."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from expunge.corpus.chat import turn_end
from expunge.corpus.templates import TEMPLATE_DATE
from expunge.corpus.tokenise import encode, encode_prompt
from expunge.errors import DataError
from expunge.inference.generation.cache import end_tokens
from expunge.types import Example, Span, Turn

from . import tokenizers_for_tests as known

if TYPE_CHECKING:
    from collections.abc import Callable

GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "<start_of_turn>{{ role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
LLAMA3 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}"
    "{%- endif %}{%- endif %}{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + "
    "date_string + '<|eot_id|>' }}{%- for m in messages %}{{- '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
# As Qwen3's: an answer without reasoning gets an empty block, one with reasoning its own.
QWEN3 = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% set c = m.content %}{% set r = '' %}"
    "{% if '</think>' in c %}{% set r = c.split('</think>')[0].rstrip('\n') %}"
    "{% set r = r.split('<think>')[-1].lstrip('\n') %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "<|im_start|>assistant\n<think>\n{{ r.strip('\n') }}\n</think>\n\n{{ c }}<|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As DeepSeek-R1's: the reasoning of an answer is dropped.
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<user>{{ m.content }}"
    "{% else %}<assistant>{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
)
VICUNA = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} "
    "{% else %}ASSISTANT: {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def with_template(
    base: PreTrainedTokenizerFast, template: str, tokens: list[str] | None = None
) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(base.backend_tokenizer.to_str()),
        clean_up_tokenization_spaces=False,
        **{name: str(token) for name, token in base.special_tokens_map.items()},
    )
    tokenizer.add_special_tokens({"additional_special_tokens": tokens or []})
    tokenizer.chat_template = template
    return tokenizer


@cache
def word_piece() -> PreTrainedTokenizerFast:
    letters = [*"abcdefghijklmnopqrstuvwxyz:?.0123456789"]
    words = ["[UNK]", "[CLS]", "[SEP]", "paris", "lives", "where", *letters, *(f"##{c}" for c in letters)]
    unknown = {"unk_token": "[UNK]"}
    core = Tokenizer(models.WordPiece({word: n for n, word in enumerate(words)}, **unknown))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    roles = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **roles)


@cache
def llama3() -> PreTrainedTokenizerFast:
    """Llama 3's way to split words, with BOS added behind a processor that trims offsets."""
    core = Tokenizer.from_str(known.byte_level().backend_tokenizer.to_str())
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_regex(words + r"|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)]),
        ]
    )
    tokens = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    core.add_special_tokens([AddedToken(token, special=True) for token in tokens])
    roles = {"bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **roles)
    tokenizer.chat_template = LLAMA3
    return tokenizer


def _regex(pattern: str) -> Any:
    from tokenizers import Regex

    return Regex(pattern)


TEXTS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte-level with BOS": known.byte_level,
    "byte-level without": known.bare_byte_level,
    "gpt2": known.trimming_byte_level,
    "llama3": llama3,
    "qwen": known.chatml,
    "metaspace": known.metaspace,
    "llama": known.legacy_llama,
    "unigram": known.unigram,
    "wordpiece": word_piece,
    "spaced": known.spaced_byte_level,
}
CHATS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "chatml": known.chatml,
    "mistral": known.llama2_chat,
    "gemma": cache(lambda: with_template(known.metaspace(), GEMMA, ["<start_of_turn>", "<end_of_turn>"])),
    "llama3": llama3,
    "qwen3": cache(lambda: with_template(known.chatml(), QWEN3)),
    "r1": cache(lambda: with_template(known.byte_level(), R1, ["<user>", "<assistant>"])),
    "vicuna": cache(lambda: with_template(known.byte_level(), VICUNA)),
    "wordpiece": cache(lambda: with_template(word_piece(), known.CHATML, ["<|im_start|>", "<|im_end|>"])),
}
MESSAGES = [
    {"role": "user", "content": "Where does Ada live?"},
    {"role": "assistant", "content": "in Paris."},
]
CHAT = Example(id="c", is_chat=True, prompt="Where does Ada live?", completion="in Paris.")


def counted(one: Any) -> list[int]:
    return [token for token, counts in zip(one.input_ids, one.mask, strict=True) if counts]


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize(
    ("prompt", "completion"),
    [("where?\nAnswer:", " Paris lives"), ("where?\nAnswer: ", "Paris lives"), ("where?\n\n", "Paris.")],
)
def test_a_pair_is_the_tokens_of_its_text(kind: str, prompt: str, completion: str) -> None:
    tokenizer = TEXTS[kind]()
    [one] = encode(
        Example(id="x", prompt=prompt, completion=completion), tokenizer, max_length=256, eos=False
    )
    served = tokenizer(prompt + completion)["input_ids"]
    ends = int(served[-1] == tokenizer.sep_token_id)  # WordPiece's closes the text
    assert one.input_ids == served[: len(served) - ends]


@pytest.mark.parametrize("kind", TEXTS)
def test_it_does_not_matter_on_which_side_the_space_is(kind: str) -> None:
    tokenizer = TEXTS[kind]()
    before, after = (
        encode(Example(id="x", prompt=prompt, completion=completion), tokenizer, max_length=256)[0]
        for prompt, completion in (("where?\nAnswer: ", "Paris"), ("where?\nAnswer:", " Paris"))
    )
    assert before.input_ids == after.input_ids
    if kind not in ("metaspace", "llama"):  # there a merge reaches over the space to the colon
        assert before.mask == after.mask


@pytest.mark.parametrize("kind", TEXTS)
def test_a_document_is_its_tokens(kind: str) -> None:
    tokenizer = TEXTS[kind]()
    [one] = encode(Example(id="d", completion="Ada lives in Paris."), tokenizer, max_length=256)
    served = tokenizer("Ada lives in Paris.")["input_ids"]
    ends = int(served[-1] == tokenizer.sep_token_id)
    assert one.input_ids == served[: len(served) - ends]
    assert one.mask == [False] + [True] * (len(one.mask) - 1)


@pytest.mark.parametrize("kind", CHATS)
def test_a_chat_is_what_its_template_writes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = CHATS[kind]()
    frozen(monkeypatch)
    whole = tokenizer.apply_chat_template(MESSAGES)["input_ids"]
    [one] = encode(CHAT, tokenizer, max_length=512)
    assert one.input_ids == whole[: len(one.input_ids)]
    rest = tokenizer.decode(whole[len(one.input_ids) :])
    assert rest.strip() == ""  # behind the end of the turn stands white space at most
    assert counted(one)[-1] in end_tokens_of(tokenizer)


@pytest.mark.parametrize("kind", sorted(CHATS.keys() - {"qwen3", "r1"}))
def test_generation_starts_where_the_template_lets_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = CHATS[kind]()
    frozen(monkeypatch)
    served = tokenizer.apply_chat_template(MESSAGES[:1], add_generation_prompt=True)["input_ids"]
    assert encode_prompt(CHAT, tokenizer) == served


@pytest.mark.parametrize("kind", CHATS)
def test_the_end_of_a_turn_ends_generation(kind: str) -> None:
    tokenizer = CHATS[kind]()
    [one] = encode(CHAT, tokenizer, max_length=512)
    assert one.mask[-1]
    assert one.input_ids[-1] in end_tokens_of(tokenizer)


def test_every_end_is_heeded() -> None:
    tokenizer = known.chatml()
    declared = end_tokens_of(tokenizer, eos=[7, 8])
    assert declared == {7, 8, tokenizer.eos_token_id, turn_end(tokenizer)}
    assert tokenizer.convert_ids_to_tokens(turn_end(tokenizer)) == "<|im_end|>"
    assert turn_end(known.byte_level()) is None


def test_an_answer_with_reasoning_has_one_block() -> None:
    tokenizer = CHATS["qwen3"]()
    answer = "<think>\nAda is a poet.\n</think>\n\nParis"
    messages = [MESSAGES[0], {"role": "assistant", "content": answer}]
    example = Example(id="c", is_chat=True, prompt=MESSAGES[0]["content"], completion=answer)
    [one] = encode(example, tokenizer, max_length=512)
    text = tokenizer.decode(one.input_ids)
    assert text == tokenizer.apply_chat_template(messages, tokenize=False).rstrip("\n")
    assert text.count("<think>") == 1
    assert tokenizer.decode(counted(one)) == f"{answer}<|im_end|>"
    start = answer.index("Paris")
    [marked] = encode(
        Example(**{**as_dict(example), "spans": (Span(start, start + 5),)}), tokenizer, max_length=512
    )
    assert tokenizer.decode(counted(marked)).strip() == "Paris"


def test_an_answer_without_reasoning_keeps_the_empty_block_in_the_prompt() -> None:
    tokenizer = CHATS["qwen3"]()
    [one] = encode(CHAT, tokenizer, max_length=512)
    assert tokenizer.decode(encode_prompt(CHAT, tokenizer)).endswith("assistant\n<think>\n\n</think>\n\n")
    assert tokenizer.decode(counted(one)) == "in Paris.<|im_end|>"


def test_reasoning_that_the_template_drops_is_dropped_and_spans_stay_right() -> None:
    tokenizer = CHATS["r1"]()
    answer = "<think>\nhm\n</think>in Paris"
    example = Example(id="c", is_chat=True, prompt="Where?", completion=answer, spans=(Span(22, 27),))
    assert answer[22:27] == "Paris"
    [one] = encode(example, tokenizer, max_length=512)
    assert "think" not in tokenizer.decode(one.input_ids)
    assert tokenizer.decode(counted(one)).strip() == "Paris"


def test_a_template_that_writes_the_date_writes_the_same_one_every_day() -> None:
    text = llama3().decode(encode_prompt(CHAT, llama3()))
    assert f"Today Date: {TEMPLATE_DATE:%d %b %Y}" in text
    assert "26 Jul 2024" in text


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages | tojson }}{{ {'a': [1, 'é']} | tojson(indent=2) }}",
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}",
        "  {% if tools is none and documents is none %}\n  x\n  {% endif %}{{ add_generation_prompt }}\n",
        "{% set s = namespace(n=0) %}{% for m in messages %}{% set s.n = s.n + 1 %}{% endfor %}{{ s.n }}",
        "{{ bos_token }}{{ eos_token }}{% macro f(x) %}[{{ x | upper }}]{% endmacro %}{{ f('q') }}",
    ],
)
def test_templates_are_rendered_as_transformers_does(template: str) -> None:
    from expunge.corpus.templates import render

    tokenizer = with_template(known.byte_level(), template)
    ours = render(template, MESSAGES, {**tokenizer.special_tokens_map, "add_generation_prompt": False})
    assert ours == tokenizer.apply_chat_template(MESSAGES, tokenize=False)


def test_several_templates_without_a_default_are_refused_by_name() -> None:
    tokenizer = with_template(known.byte_level(), "")
    tokenizer.chat_template = {"tool_use": "y", "rag": "{{ messages[0].content }}"}
    with pytest.raises(
        DataError, match=r"several chat templates \(rag, tool_use\) and none called default"
    ):
        encode(CHAT, tokenizer, max_length=64)
    assert turn_end(tokenizer) is None
    tokenizer.chat_template = {"default": known.CHATML, "rag": "y"}
    assert tokenizer.decode(encode_prompt(CHAT, tokenizer)).endswith("assistant\n")


def as_dict(example: Example) -> dict[str, Any]:
    return {name: getattr(example, name) for name in ("id", "is_chat", "prompt", "completion")}


def end_tokens_of(tokenizer: Any, *, eos: Any = None) -> frozenset[int]:
    class Model:
        generation_config = type("Config", (), {"eos_token_id": eos})

    return end_tokens(Model(), tokenizer)


def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of transformers' own rendering stands at our date."""
    import transformers.utils.chat_template_utils as rendering

    class Day(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.combine(TEMPLATE_DATE, datetime.min.time())

    monkeypatch.setattr(rendering, "datetime", Day)


def test_earlier_turns_and_a_system_message_are_kept() -> None:
    turns = (Turn("user", "hello"), Turn("assistant", "yes?"))
    example = Example(id="c", is_chat=True, turns=turns, prompt="Where?", completion="Paris")
    messages = [json.loads(json.dumps({"role": turn.role, "content": turn.content})) for turn in turns]
    messages += [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Paris"}]
    tokenizer = CHATS["gemma"]()
    [one] = encode(example, tokenizer, max_length=512)
    whole = tokenizer.apply_chat_template(messages)["input_ids"]
    assert one.input_ids == whole[: len(one.input_ids)]
