"""The near-verbatim bound against all continuations there are, and against samples."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from rapidfuzz.distance import Levenshtein
from scipy.stats import beta

from expunge.inference.generation.near import near_mass
from expunge.inference.generation.sample import PLAIN, TokenSampler, sample_answers
from tests.tiny import tiny

FEW = 8
"""Tokens of the vocabulary, so that all continuations can be looked at."""
PROMPT = [5, 6, 7]


def model(arch: str = "llama") -> Any:
    found: Any = tiny(arch, vocab_size=FEW, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    with torch.no_grad():
        found.get_output_embeddings().weight.mul_(4)
    return found


@torch.no_grad()
def every(found: Any, length: int, sampler: TokenSampler) -> dict[tuple[int, ...], float]:
    """The probability of every continuation without an end token, from one pass over all of them."""
    texts = [text for text in product(range(FEW), repeat=length) if 2 not in text]
    ids = torch.tensor([[*PROMPT, *text] for text in texts])
    logits = found(ids).logits[:, len(PROMPT) - 1 : -1]
    logp = torch.stack([sampler(each).log_softmax(-1) for each in logits])
    summed = logp.gather(-1, ids[:, len(PROMPT) :, None])[..., 0].sum(-1)
    return dict(zip(texts, summed.exp().tolist(), strict=True))


@pytest.mark.parametrize("distance", [0, 1, 2])
@pytest.mark.parametrize("sampler", [PLAIN, TokenSampler(temperature=0.7, top_k=6)])
def test_a_wide_search_finds_all_and_a_narrow_one_no_more(distance: int, sampler: TokenSampler) -> None:
    found, target = model(), (3, 4, 3, 6)
    chances = every(found, len(target), sampler)
    whole = math.fsum(p for text, p in chances.items() if Levenshtein.distance(text, target) <= distance)
    settings: dict[str, Any] = {"distance": distance, "sampler": sampler, "eos_ids": [2]}
    wide = near_mass(found, PROMPT, target, width=FEW**4, **settings)
    assert wide == pytest.approx(whole, rel=1e-4)
    for width in (1, 3, 20):
        narrow = near_mass(found, PROMPT, target, width=width, **settings)
        assert chances[target] * (1 - 1e-4) <= narrow <= whole * (1 + 1e-4)


@pytest.mark.parametrize("arch", ["gpt2", "gemma2", "mistral"])
def test_it_is_the_same_on_other_architectures(arch: str) -> None:
    found, target = model(arch), (3, 4, 6)
    chances = every(found, len(target), PLAIN)
    whole = math.fsum(p for text, p in chances.items() if Levenshtein.distance(text, target) <= 1)
    assert near_mass(found, PROMPT, target, distance=1, width=600, eos_ids=[2]) == pytest.approx(
        whole, rel=1e-4
    )


def test_it_is_no_more_than_what_samples_say() -> None:
    found, target, draws = model(), [3, 4, 3, 6], 640
    said = sample_answers(found, [PROMPT] * draws, new_tokens=4, eos_ids=[2], pad_id=0, seed=1)
    hits = sum(Levenshtein.distance(text, target) <= 2 for text in said if 2 not in text)
    bound = near_mass(found, PROMPT, target, distance=2, width=30, eos_ids=[2])
    assert bound <= beta.ppf(0.999, hits + 1, draws - hits)


def test_a_target_that_is_never_drawn_has_none() -> None:
    found, only = model(), TokenSampler(top_k=1)
    (said,) = sample_answers(found, [PROMPT], new_tokens=2, eos_ids=[], pad_id=0, sampler=only)
    settings: dict[str, Any] = {"width": 4, "sampler": only}
    assert near_mass(found, PROMPT, said, distance=0, **settings) == pytest.approx(1.0)
    other = [said[0], (said[1] + 1) % FEW]
    assert near_mass(found, PROMPT, other, distance=0, **settings) == 0.0
    assert near_mass(found, PROMPT, other, distance=1, **settings) == pytest.approx(1.0)
