"""States behind counted tokens: with a head apart they give the model's own distributions again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from expunge.corpus.tokenise import encode
from expunge.inference.hidden_states import Head
from expunge.inference.observer import Observer
from expunge.types import Example, Span
from tests.batches import full_logps
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

TOKENIZER = tiny_tokenizer(all_bytes=True)
DOCUMENT = Example(id="doc", completion="the men went out in the rain and the wind was on the hill ")
PAIR = Example(id="pair", prompt="where do they live? ", completion="in the town of Arlen")
TEXTS = [DOCUMENT, PAIR, replace(DOCUMENT, id="spanned", spans=(Span(4, 7), Span(30, 40)))]


def observer(arch: str = "llama", **settings: int) -> Observer:
    model = tiny(arch, seed=3, vocab_size=BYTES_VOCAB)
    return Observer(model, TOKENIZER, **{"max_length": 256, **settings})


@pytest.mark.parametrize("arch", ["llama", "gemma2", "granite", "gpt2", "phi"])
@pytest.mark.parametrize("max_length", [256, 32])
def test_a_head_apart_gives_the_models_own_log_probabilities(arch: str, max_length: int) -> None:
    seer = observer(arch, max_length=max_length)
    head = Head.of(seer.model).to(torch.device("cpu"))
    for example, states in zip(TEXTS, seer.states(TEXTS, tokens=500), strict=True):
        pieces = encode(example, TOKENIZER, max_length=seer.max_length)
        expected = torch.cat([full_logps(seer.model, piece) for piece in pieces if any(piece.mask)])
        ours = head(states.hidden_nH).log_softmax(-1)
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5)
        logps = ours.gather(-1, states.token_n[:, None])[:, 0]
        torch.testing.assert_close(logps, seer.token_logps([example])[0], rtol=1e-5, atol=1e-5)


def test_the_first_tokens_are_read_and_what_follows_is_not() -> None:
    seer, read = observer(max_length=32), []
    whole = seer.states(TEXTS, tokens=500)
    seer.model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    some = seer.states([DOCUMENT], tokens=5)[0]
    assert read == [6]  # BOS and five tokens
    torch.testing.assert_close(some.hidden_nH, whole[0].hidden_nH[:5], rtol=1e-5, atol=1e-6)
    spanned = seer.states([TEXTS[2]], tokens=4)[0]  # three letters of the first span, one of the second
    torch.testing.assert_close(spanned.hidden_nH, whole[2].hidden_nH[:4], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_the_batch_size_changes_nothing(batch_tokens: int) -> None:
    alone = [observer().states([each], tokens=30)[0] for each in TEXTS]
    for ours, theirs in zip(
        observer(batch_tokens=batch_tokens).states(TEXTS, tokens=30), alone, strict=True
    ):
        assert ours.token_n.tolist() == theirs.token_n.tolist()
        torch.testing.assert_close(ours.hidden_nH, theirs.hidden_nH, rtol=1e-5, atol=1e-5)


def test_no_text_and_no_tokens() -> None:
    assert observer().states([], tokens=3) == []
