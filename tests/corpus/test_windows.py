"""Long texts in windows: the tokens are those of the whole text, on tokenizers of many families."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from expunge.corpus import windows
from expunge.corpus.boundary import _at_once, plain
from expunge.corpus.tokenise import encode
from expunge.types import Example, Span
from tests.corpus import tokenizers_for_tests as made

UNKNOWN = "<unk>"
CORPUS = [
    "the quick brown fox lives in London.\n\nAnd Paris, don't we'll 12345 naïve",
    "你好 。\n 你好 мир мир мир",
]
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PIECES = [
    *("Paris", "fox", "don't", "we'll", "naïve", "e\u0301a", "你好", "мир", "ab", "7", "12345", "</s>"),
    *("\U0001f469\u200d\U0001f52c", "x" * 40, "London."),
]
GAPS = [*[" "] * 8, "  ", "\n", "\n\n", ". ", ", ", " \n ", "\t", ":", " ▁", "   \n", "。\n", ""]


def trained(
    model: object, trainer: object, pre: object, normalizer: object = None
) -> PreTrainedTokenizerFast:
    core = Tokenizer(model)
    core.pre_tokenizer, core.normalizer = pre, normalizer
    core.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token=UNKNOWN)


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    pieces = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([pieces, pre_tokenizers.ByteLevel(False, use_regex=False)])


@cache
def byte_split(pattern: str, normalizer: type | None = None) -> PreTrainedTokenizerFast:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    return trained(models.BPE(), trainer, split(pattern), normalizer() if normalizer else None)


@cache
def llama(scheme: str) -> PreTrainedTokenizerFast:
    """Merges like SentencePiece's: none crosses a word, and no pre-tokenizer cuts."""
    # Every character is known: behind unknown ones a tokenizer of this kind gives wrong offsets.
    trainer = trainers.BpeTrainer(
        vocab_size=160,
        special_tokens=[UNKNOWN],
        initial_alphabet=sorted(set("".join(PIECES + GAPS))),
        show_progress=False,
    )
    split_words = trained(models.BPE(), trainer, pre_tokenizers.Metaspace(prepend_scheme="always"))
    core = Tokenizer.from_str(split_words.backend_tokenizer.to_str())
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False) if scheme else None
    if not scheme:
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token=UNKNOWN)


@cache
def bert() -> PreTrainedTokenizerFast:
    trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=[UNKNOWN], show_progress=False)
    pre, normalizer = pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer()
    return trained(models.WordPiece(unk_token=UNKNOWN), trainer, pre, normalizer)


IN_WINDOWS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte level": made.byte_level,
    "byte level with a space before": made.spaced_byte_level,
    "gpt2's pattern": lambda: byte_split(GPT2),
    "llama 3's pattern": lambda: byte_split(LLAMA3),
    "qwen": lambda: byte_split(LLAMA3.replace("{1,3}", ""), normalizers.NFC),
    "llama": lambda: llama("first"),
    "always a space": lambda: llama("always"),
    "legacy llama": lambda: llama(""),
    "unigram": made.unigram,
    "bert": bert,
}


def in_windows(text: str, tokenizer: PreTrainedTokenizerFast) -> windows.WindowTokens | None:
    return windows.in_windows(
        text, tokenizer, lambda part: _at_once(part, tokenizer), offsets=True, window=300
    )


def text_of(length: int, seed: int) -> str:
    draw = random.Random(seed)
    return "".join(draw.choice(PIECES) + draw.choice(GAPS) for _ in range(length // 5))


@pytest.mark.parametrize("name", IN_WINDOWS)
@pytest.mark.parametrize("seed", range(6))
def test_the_tokens_are_those_of_the_whole_text(
    name: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "OVERLAP", 60)
    tokenizer, text = IN_WINDOWS[name](), text_of(1500, seed)
    asked: list[int] = []

    def encoded(part: str) -> windows.WindowTokens:
        asked.append(len(part))
        return _at_once(part, tokenizer)

    found = windows.in_windows(text, tokenizer, encoded, offsets=True, window=300)
    assert found == _at_once(text, tokenizer)
    assert max(asked) < len(text) / 2  # and it was windows


@pytest.mark.parametrize(
    "tokenizer",
    [
        pytest.param(made.metaspace, id="merges across words"),
        pytest.param(made.legacy_llama, id="merges across words, without a pre-tokenizer"),
        pytest.param(lambda: byte_split(r".{1,7}"), id="pieces of a fixed length"),
    ],
)
def test_where_it_is_not_certain_the_text_is_tokenised_at_once(
    tokenizer: Callable[[], PreTrainedTokenizerFast], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = text_of(600, 0)
    assert (
        windows.in_windows(text, tokenizer(), lambda part: _at_once(part, tokenizer()), offsets=True)
        is None
    )
    monkeypatch.setattr("expunge.corpus.boundary.LONG", 100)
    assert plain(text, tokenizer()).ids == _at_once(text, tokenizer()).ids


def test_windows_that_disagree_are_not_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "OVERLAP", 60)
    tokenizer, text = made.byte_level(), text_of(1500, 1)

    def fickle(part: str) -> windows.WindowTokens:
        ids, offsets = _at_once(part, tokenizer)
        return windows.WindowTokens([each + len(part) % 2 for each in ids], offsets)

    assert windows.in_windows(text[:1401], tokenizer, fickle, offsets=True, window=301) is None


def test_a_text_without_a_place_to_cut_is_one_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "OVERLAP", 60)
    tokenizer, text = made.byte_level(), "1234567890" * 200
    found = windows.in_windows(
        text, tokenizer, lambda part: _at_once(part, tokenizer), offsets=True, window=300
    )
    assert found == _at_once(text, tokenizer)


@pytest.mark.parametrize("spans", [(), (Span(40, 60), Span(700, 1200))])
def test_a_long_document_is_encoded_as_a_short_one_would_be(
    spans: tuple[Span, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = made.byte_level()
    example = Example(id="x", completion=text_of(1500, 3), spans=spans)
    expected = encode(example, tokenizer, max_length=64)
    monkeypatch.setattr("expunge.corpus.boundary.LONG", 100)
    monkeypatch.setattr(windows, "OVERLAP", 60)
    monkeypatch.setattr(windows.in_windows, "__kwdefaults__", {"window": 300})
    assert encode(example, tokenizer, max_length=64) == expected
