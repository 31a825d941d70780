from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from expunge.corpus.tokenise import encode
from expunge.errors import DataError
from expunge.inference.observer import Observer
from expunge.inference.texts import TokenStats, as_text
from expunge.types import Example, Span
from tests.batches import full_logps, own
from tests.tiny import BYTES_VOCAB, EOS, tiny, tiny_tokenizer

TOKENIZER = tiny_tokenizer(all_bytes=True)
LINE = "the men went out in the rain and the wind was on the hill "
DOCUMENT = Example(id="doc", completion=LINE * 2)
PAIR = Example(id="pair", prompt="where do they live? ", completion="in the town of Arlen")
SHOTS = "".join(f"Question: what is in town {n}?\nAnswer: the rain and the wind\n\n" for n in range(4))
CHOICES = [
    Example(
        id=f"{question}/{answer}", prompt=f"{SHOTS}Question: {question}?\nAnswer:", completion=f" {answer}"
    )
    for question in ("who is it", "and the others")
    for answer in ("the men", "a hill in the rain", "wind", "nobody")
]
MIXED = [*CHOICES, PAIR, DOCUMENT, replace(PAIR, id="short", prompt="a ", completion="b")]


def observer(arch: str = "llama", dtype: torch.dtype = torch.float32, **settings: Any) -> Observer:
    model = tiny(arch, seed=3, vocab_size=BYTES_VOCAB, **settings.pop("model", {})).to(dtype)
    return Observer(model, TOKENIZER, **{"max_length": 256, **settings})


def expected(seer: Observer, example: Example) -> torch.Tensor:
    pieces = encode(example, TOKENIZER, max_length=seer.max_length)
    return torch.cat([own(full_logps(seer.model, piece), piece) for piece in pieces])


def largest_gap(left: list[TokenStats], right: list[TokenStats], name: str) -> float:
    pairs = zip(left, right, strict=True)
    return max(float((getattr(a, name) - getattr(b, name)).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("max_length", [256, 24, 9])
def test_sensitive_tokens_are_those_that_encode_counts(max_length: int, adds_bos: bool) -> None:
    tokenizer = tiny_tokenizer(all_bytes=True, adds_bos=adds_bos)
    # One span in the first piece, one across pieces, most pieces without any.
    spanned = replace(DOCUMENT, spans=(Span(4, 7), Span(60, 75)))
    text = as_text(spanned, tokenizer, max_length=max_length)
    places = [text.counted[at] for at in text.sensitive_n.nonzero()[:, 0].tolist()]
    ids = [text.pieces[piece].input_ids[at] for piece, at in places]
    counted = encode(spanned, tokenizer, max_length=max_length)
    assert ids == [
        token for one in counted for token, counts in zip(one.input_ids, one.mask, strict=True) if counts
    ]
    assert len(text.sensitive_n) == len(text.counted)


def test_the_end_token_is_known_as_what_ends_the_text() -> None:
    text = as_text(PAIR, TOKENIZER, max_length=64)
    assert text.ending == 1
    assert text.pieces[0].input_ids[-1] == EOS
    assert as_text(DOCUMENT, TOKENIZER, max_length=64).ending == 0
    spanned = as_text(replace(PAIR, spans=(Span(15, 20),)), TOKENIZER, max_length=64)
    assert (spanned.ending, bool(spanned.sensitive_n[-1])) == (1, False)


def test_spans_without_a_token_are_refused() -> None:
    with pytest.raises(DataError, match="span"):
        as_text(replace(PAIR, spans=(Span(0, 99),)), TOKENIZER, max_length=64)


def test_one_pass_serves_an_example_and_its_spans() -> None:
    seer = observer()
    spanned = replace(PAIR, spans=(Span(15, 20),))
    (facts,) = seer.facts([spanned])
    whole, inside = expected(seer, PAIR), expected(seer, spanned)
    torch.testing.assert_close(facts.logp_n.double(), whole, rtol=1e-6, atol=1e-6)
    (logps,) = seer.token_logps([spanned])
    torch.testing.assert_close(logps.double(), inside, rtol=1e-6, atol=1e-6)
    assert 0 < len(inside) < len(whole)


@pytest.mark.parametrize("arch", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_choices_after_a_shared_prompt_are_read_as_if_alone(arch: str) -> None:
    seer = observer(arch)
    for example, facts in zip(CHOICES, seer.facts(CHOICES), strict=True):
        torch.testing.assert_close(facts.logp_n.double(), expected(seer, example), rtol=1e-5, atol=2e-6)


def test_a_shared_prompt_is_read_once_for_all_batches() -> None:
    seer, read = observer(batch_tokens=400), []
    seer.model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    seer.facts(CHOICES)
    lengths = [len(encode(each, TOKENIZER, max_length=256)[0].input_ids) for each in CHOICES]
    assert len(read) > 2  # the prompt, then several batches
    assert sum(read) < 0.4 * sum(lengths)


def test_a_sliding_window_is_read_without_sharing() -> None:
    seer = observer("mistral", model={"sliding_window": 16})
    for example, facts in zip(CHOICES, seer.facts(CHOICES), strict=True):
        torch.testing.assert_close(facts.logp_n.double(), expected(seer, example), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("batch_tokens", [1, 300, 100_000])
@pytest.mark.parametrize("arch", ["llama", "gpt2", "gemma2"])
def test_the_batch_size_changes_no_number(arch: str, batch_tokens: int) -> None:
    alone = [observer(arch).facts([example])[0] for example in MIXED]
    together = observer(arch, batch_tokens=batch_tokens).facts(MIXED)
    for name in ("logp_n", "mean_n", "variance_n"):
        assert largest_gap(together, alone, name) < 5e-6
    assert all(torch.equal(a.best_n, b.best_n) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("batch_tokens", [1, 300, 100_000])
def test_in_bf16_a_batch_moves_a_number_by_a_rounding_and_no_more(batch_tokens: int) -> None:
    # Kernels add up in another order for another shape: the last of 8 bits of a logit may differ.
    alone = [observer(dtype=torch.bfloat16).facts([example])[0] for example in MIXED]
    together = observer(dtype=torch.bfloat16, batch_tokens=batch_tokens).facts(MIXED)
    largest_logit = 4.0
    assert largest_gap(together, alone, "logp_n") <= 2**-7 * largest_logit
    assert largest_gap(together, alone, "mean_n") <= 2**-7


def test_reading_without_remembering_keeps_nothing() -> None:
    seer = observer()
    first, again = seer.read([PAIR]), seer.read([PAIR])
    assert first[0] is not again[0]
    assert seer.facts([PAIR])[0] is seer.facts([PAIR])[0]
