from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from expunge.inference import texts as module
from expunge.inference.backbone import predictions
from expunge.inference.texts import TokenStats, TokenStatsRows, compute_token_stats
from expunge.model.arch import output_head
from tests.batches import LENGTHS, batch_of
from tests.tiny import tiny

ARCHITECTURES = ("llama", "gpt2", "gemma2", "granite")  # among them soft-capped and divided logits


def looked(*probabilities: list[float], tokens: list[int]) -> TokenStatsRows:
    """Facts of distributions given outright: the head hands their logarithms on."""
    logits = torch.tensor(probabilities).log()
    return compute_token_stats(lambda rows: rows, logits, torch.tensor(tokens), vocabulary=logits.shape[1])


def by_the_formula(logits_NV: Tensor, token_N: Tensor) -> TokenStatsRows:
    """Means and variances as sums over the vocabulary, in double precision."""
    logits = logits_NV.double()
    p = logits.exp() / logits.exp().sum(-1, keepdim=True)
    mean = (p * p.log()).sum(-1)
    square = (p * p.log() ** 2).sum(-1)
    chosen = torch.stack([row[token] for row, token in zip(p, token_N, strict=True)])
    return TokenStatsRows(chosen.log(), logits.argmax(-1), mean, square - mean**2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("arch", ARCHITECTURES)
@torch.no_grad()
def test_facts_are_those_of_the_formulas_on_full_logits(arch: str, dtype: torch.dtype) -> None:
    model = tiny(arch, seed=4).to(dtype)
    found = predictions(model, batch_of(LENGTHS))
    head = output_head(model)
    got = compute_token_stats(head, found.hidden_NH, found.token_N, vocabulary=model.config.vocab_size)
    expected = by_the_formula(head(found.hidden_NH), found.token_N)
    assert torch.equal(got.best_N, expected.best_N)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-6, atol=1e-6)


def test_mean_and_variance_by_hand() -> None:
    got = looked([0.8, 0.2], [0.8, 0.2], tokens=[0, 1])
    assert got.mean_N.tolist() == pytest.approx([-0.500402] * 2, abs=1e-6)
    assert got.variance_N.sqrt().tolist() == pytest.approx([0.554518] * 2, abs=1e-6)
    assert got.logp_N.tolist() == pytest.approx([math.log(0.8), math.log(0.2)])
    assert got.best_N.tolist() == [0, 0]


def test_a_uniform_distribution_has_no_spread_at_all() -> None:
    got = looked([0.125] * 8, tokens=[3])
    assert got.mean_N.item() == got.logp_N.item() == pytest.approx(-math.log(8))
    assert got.variance_N.item() == 0.0


def test_a_token_that_cannot_be_leaves_the_others_finite() -> None:
    got = looked([0.5, 0.5, 0.0], [1.0, 0.0, 0.0], tokens=[2, 0])
    assert got.logp_N.tolist() == [-math.inf, 0.0]
    assert got.mean_N.tolist() == pytest.approx([-math.log(2), 0.0])
    assert got.variance_N.tolist() == pytest.approx([0.0, 0.0])


def test_logits_are_taken_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, token = torch.randn(23, 16), torch.arange(23) % 16
    whole = compute_token_stats(lambda rows: rows, hidden, token, vocabulary=16)
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 5 * 16)
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 2 * 16)
    seen: list[int] = []

    def head(rows: Tensor) -> Tensor:
        seen.append(len(rows))
        return rows

    pieces = compute_token_stats(head, hidden, token, vocabulary=16)
    assert max(seen) == 5
    assert sum(seen) == 23
    assert all(torch.equal(one, other) for one, other in zip(pieces, whole, strict=True))


def test_nothing_to_look_at_is_nothing() -> None:
    empty = compute_token_stats(
        lambda rows: rows, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), vocabulary=4
    )
    assert [len(each) for each in empty] == [0] * 4


def text(sensitive: list[bool], ending: int = 0) -> TokenStats:
    numbers = torch.arange(float(len(sensitive)))
    return TokenStats(
        token_n=torch.tensor([1, 2, 3, 4]),
        logp_n=-numbers,
        best_n=torch.tensor([1, 9, 3, 9]),
        mean_n=-numbers,
        variance_n=numbers,
        sensitive_n=torch.tensor(sensitive),
        ending=ending,
    )


def test_parts_of_a_text() -> None:
    plain = text([False] * 4, ending=1)
    assert plain.right_n.tolist() == [True, False, True, False]
    assert plain.counted is plain
    assert (len(plain.text), plain.text.ending) == (3, 0)
    assert plain.first(9) is plain
    assert plain.first(2).token_n.tolist() == [1, 2]
    spanned = text([False, True, True, False], ending=1).counted
    assert (spanned.token_n.tolist(), spanned.ending) == ([2, 3], 0)
