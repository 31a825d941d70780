from __future__ import annotations

from typing import Any

import pytest
import torch

from expunge.corpus.tokenise import encode
from expunge.inference.observer import Observer, gradient_norms
from expunge.inference.texts import as_text
from expunge.types import Example
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

TOKENIZER = tiny_tokenizer(all_bytes=True)
DOCUMENT = Example(id="doc", completion="the men went out in the rain and the wind was on the hill")
PAIR = Example(id="pair", prompt="where do they live? ", completion="in the town of Arlen")


def plain_norms(model: Any, example: Example, max_length: int) -> list[float]:
    """Mean loss over the text's own tokens on full logits, back through everything at once."""
    pieces = encode(example, TOKENIZER, max_length=max_length, eos=False)
    model.zero_grad()
    total = sum(sum(piece.mask) for piece in pieces)
    for piece in pieces:
        logits = model(input_ids=torch.tensor([piece.input_ids])).logits[0, :-1].float()
        counted = torch.tensor(piece.mask[1:])
        targets = torch.tensor(piece.input_ids[1:])[counted]
        (torch.nn.functional.cross_entropy(logits[counted], targets, reduction="sum") / total).backward()
    norms = [float(weight.grad.norm()) for weight in model.parameters() if weight.grad is not None]
    model.zero_grad()
    return norms


@pytest.mark.parametrize("max_length", [256, 12])
@pytest.mark.parametrize("arch", ["llama", "gpt2", "gemma2"])  # gpt2's and gemma2's heads are tied
def test_norms_are_those_of_the_plain_way(arch: str, max_length: int) -> None:
    model = tiny(arch, seed=3, vocab_size=BYTES_VOCAB)
    examples = [DOCUMENT, PAIR] if max_length > 40 else [DOCUMENT]
    expected = [plain_norms(model, example, max_length) for example in examples]
    got = Observer(model, TOKENIZER, max_length=max_length).gradient_norms(examples)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-7)


def test_a_model_is_left_as_it_was() -> None:
    model = tiny("llama", vocab_size=BYTES_VOCAB).train()
    first, second, *_ = model.parameters()
    first.requires_grad_(False)
    second.grad = torch.ones_like(second)
    before = [weight.clone() for weight in model.parameters()]
    Observer(model, TOKENIZER, max_length=64).gradient_norms([PAIR])
    assert model.training
    assert not first.requires_grad
    assert second.requires_grad
    assert torch.equal(second.grad, torch.ones_like(second))
    assert first.grad is None
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_dropout_is_off() -> None:
    model = tiny("gpt2", vocab_size=BYTES_VOCAB, resid_pdrop=0.5, embd_pdrop=0.5)
    quiet = Observer(model.eval(), TOKENIZER, max_length=64).gradient_norms([PAIR])
    assert Observer(model.train(), TOKENIZER, max_length=64).gradient_norms([PAIR]) == quiet


def test_gradients_do_not_pile_up() -> None:
    model = tiny("llama", vocab_size=BYTES_VOCAB)
    alive: list[int] = []
    last = next(model.parameters())  # the embedding, reached last on the way back
    last.register_post_accumulate_grad_hook(
        lambda _: alive.append(sum(weight.grad is not None for weight in model.parameters()))
    )
    gradient_norms(model, [as_text(each, TOKENIZER, max_length=256) for each in (PAIR, DOCUMENT)], pad_id=0)
    assert alive == [1, 1]  # all others were measured and let go
    assert all(weight.grad is None for weight in model.parameters())


def test_a_text_is_measured_once() -> None:
    seer = Observer(tiny("llama", vocab_size=BYTES_VOCAB), TOKENIZER, max_length=64)
    one, two, three = seer.gradient_norms([PAIR, DOCUMENT, PAIR])
    assert one is three
    assert seer.gradient_norms([DOCUMENT])[0] is two


def test_bf16_norms_are_near_those_in_fp32() -> None:
    model = tiny("llama", seed=3, vocab_size=BYTES_VOCAB)
    (exact,) = Observer(model, TOKENIZER, max_length=64).gradient_norms([PAIR])
    (rough,) = Observer(model.to(torch.bfloat16), TOKENIZER, max_length=64).gradient_norms([PAIR])
    assert rough == pytest.approx(exact, rel=0.05, abs=1e-3)


def test_nothing_but_an_end_token_has_no_gradient() -> None:
    model = tiny("llama", vocab_size=BYTES_VOCAB)
    text = as_text(PAIR, TOKENIZER, max_length=64)
    empty = text._replace(ending=len(text.sensitive_n))
    assert gradient_norms(model, [empty], pad_id=0) == [[]]
