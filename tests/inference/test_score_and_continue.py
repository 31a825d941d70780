"""A document whose beginning will be continued is read once, and everybody hears the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from expunge.inference.generation import cache as continuing
from expunge.inference.generation import score_and_continue as module
from expunge.inference.observer import Observer
from expunge.types import Example, Span
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

TOKENIZER = tiny_tokenizer(all_bytes=True)
WORDS = "the men went out in the rain and the wind was on the hill".split()
DOCUMENTS = [Example(id=str(n), completion=" ".join(WORDS[n:] + WORDS[: n + 2])) for n in range(5)]
PROMPTS = [" ".join(document.completion.split()[:4]) for document in DOCUMENTS]
OTHER = Example(id="pair", prompt="where do they live? ", completion="in the town")
ARCHITECTURES = ("llama", "gpt2", "gemma2", "gpt_neox", "qwen3")


def observer(arch: str = "llama", **settings: Any) -> Observer:
    model = tiny(arch, seed=3, vocab_size=BYTES_VOCAB)
    return Observer(model, TOKENIZER, **{"max_length": 128, **settings})


@pytest.fixture
def continued(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts were read only to be continued, call by call."""
    counts: list[int] = []
    greedy = continuing.greedy

    def watched(model: Any, prompts: Any, **settings: Any) -> Any:
        counts.append(len(prompts))
        return greedy(model, prompts, **settings)

    monkeypatch.setattr(continuing, "greedy", watched)
    return counts


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("batch_tokens", [40, 8192])
def test_both_ends_are_as_if_read_apart(arch: str, batch_tokens: int, continued: list[int]) -> None:
    apart, seer = observer(arch), observer(arch, batch_tokens=batch_tokens)
    texts = [*DOCUMENTS, OTHER]
    plain, said = apart.facts(texts), apart.greedy(PROMPTS, max_new_tokens=9)
    continued.clear()
    seer.prefetch(PROMPTS, max_new_tokens=9)
    for one, other in zip(plain, seer.facts(texts), strict=True):
        assert torch.equal(one.token_n, other.token_n)
        assert one.ending == other.ending
        for name in ("logp_n", "mean_n", "variance_n"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-5, rtol=1e-5)
        assert torch.equal(one.best_n, other.best_n)
    assert seer.greedy(PROMPTS, max_new_tokens=9) == said
    assert continued == []


def test_more_than_was_expected_is_gone_on_with(continued: list[int]) -> None:
    fresh, seer = observer().greedy(PROMPTS, max_new_tokens=12), observer()
    continued.clear()
    seer.prefetch(PROMPTS, max_new_tokens=5)
    seer.prefetch(PROMPTS[:1], max_new_tokens=3)  # the larger wish stays
    seer.facts(DOCUMENTS)
    short = [
        text[: len(other)]
        for text, other in zip(fresh, seer.greedy(PROMPTS, max_new_tokens=5), strict=True)
    ]
    assert seer.greedy(PROMPTS, max_new_tokens=5) == short
    assert continued == []
    assert seer.greedy(PROMPTS, max_new_tokens=12) == fresh
    assert sum(continued) == len(PROMPTS)


def test_an_end_token_ends_it(continued: list[int]) -> None:
    seer = observer()
    seer.greedy(PROMPTS[:1], max_new_tokens=8)
    end = seer._continuations._said[PROMPTS[0]].tokens[3]
    fresh, seer = observer(), observer()
    for each in (fresh, seer):
        each.model.generation_config.eos_token_id = [end]
    seer.prefetch(PROMPTS, max_new_tokens=8)
    seer.facts(DOCUMENTS)
    continued.clear()
    assert seer.greedy(PROMPTS[:1], max_new_tokens=30) == fresh.greedy(PROMPTS[:1], max_new_tokens=30)
    assert continued == [1]  # the fresh one's; here it had ended


def test_documents_of_several_pieces_and_with_spans(continued: list[int]) -> None:
    long = Example(id="long", completion=" ".join(WORDS * 4), spans=(Span(4, 7),))
    apart, seer = observer(max_length=24), observer(max_length=24)
    (plain,), said = apart.facts([long]), apart.greedy(["the men went"], max_new_tokens=6)
    continued.clear()
    seer.prefetch(["the men went"], max_new_tokens=6)
    (found,) = seer.facts([long])
    assert len(found) == len(plain) > 48
    torch.testing.assert_close(found.logp_n, plain.logp_n, atol=1e-5, rtol=1e-5)
    assert torch.equal(found.sensitive_n, plain.sensitive_n)
    assert seer.greedy(["the men went"], max_new_tokens=6) == said
    assert continued == []


@pytest.mark.parametrize(
    ("prompt", "tokens", "settings"),
    [
        ("the men we", 6, {}),  # cut inside a token
        ("the men of", 6, {}),  # no document begins so
        ("the men went", 6, {"window": 8}),  # a window would slide over it
    ],
)
def test_what_does_not_fit_is_read_apart(
    prompt: str, tokens: int, settings: dict[str, int], continued: list[int]
) -> None:
    def fresh() -> Observer:
        if "window" not in settings:
            return observer()
        model = tiny("mistral", seed=3, vocab_size=BYTES_VOCAB, sliding_window=settings["window"])
        return Observer(model, TOKENIZER, max_length=128)

    said = fresh().greedy([prompt], max_new_tokens=tokens)
    seer = fresh()
    seer.prefetch([prompt], max_new_tokens=tokens)
    seer.facts(DOCUMENTS)
    assert seer.greedy([prompt], max_new_tokens=tokens) == said
    assert sum(continued) == 2


def test_nothing_is_continued_that_nobody_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    read = module.score_and_continue

    def watched(model: Any, onward: Any, **settings: Any) -> Any:
        asked.append(len(onward))
        return read(model, onward, **settings)

    monkeypatch.setattr(module, "score_and_continue", watched)
    seer = observer()
    seer.facts(DOCUMENTS)
    seer.prefetch(PROMPTS, max_new_tokens=4)
    seer.facts(DOCUMENTS)  # known already
    assert asked == [0]
