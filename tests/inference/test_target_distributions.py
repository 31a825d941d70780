from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expunge.corpus.batching import collate
from expunge.corpus.tokenise import Encoded
from expunge.inference.forward import compute_token_view
from expunge.inference.reference import Key, Target, TargetReference, as_scores, generic_scores, kept
from expunge.inference.token_view import Need
from tests.tiny import VOCAB, tiny

scores = st.lists(st.floats(-20, 20, width=32), min_size=4, max_size=4).map(lambda row: torch.tensor([row]))


def test_the_papers_equation_by_hand() -> None:
    base, reinforced = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[3.0, 0.0, 0.0]])
    assert generic_scores(base, reinforced, alpha=5).tolist() == [[-3.0, 1.0, 0.0]]


@given(scores, scores, st.floats(0, 10))
def test_nothing_is_raised_and_what_reinforcement_did_not_raise_is_left_alone(
    base: torch.Tensor, reinforced: torch.Tensor, alpha: float
) -> None:
    found = generic_scores(base, reinforced, alpha=alpha)
    assert (found <= base).all()
    assert torch.equal(found[reinforced <= base], base[reinforced <= base])
    assert torch.equal(generic_scores(base, reinforced, alpha=0.0), base)


def test_a_constant_added_to_one_models_logits_changes_nothing_in_log_probabilities() -> None:
    base, reinforced = torch.randn(3, 7), torch.randn(3, 7)

    def targets(shift: float, kind: str) -> torch.Tensor:
        pair = as_scores(base, kind), as_scores(reinforced + shift, kind)  # type: ignore[arg-type]
        return generic_scores(*pair, alpha=5).softmax(-1)

    torch.testing.assert_close(targets(0, "logps"), targets(3, "logps"))
    assert (targets(0, "logits") - targets(3, "logits")).abs().max() > 0.01


def test_what_is_kept_by_hand() -> None:
    entries, shares = kept(torch.tensor([[0.0, 3.0, 1.0]]), 2)
    assert entries.tolist() == [[1, 2]]
    odds = torch.tensor(2.0).exp().item()
    assert shares[0].tolist() == pytest.approx([odds / (1 + odds), 1 / (1 + odds)])
    assert kept(torch.tensor([[0.0, 3.0]]), 1).shares_NK.tolist() == [[1.0]]


def test_distance_to_targets_is_their_cross_entropy_less_their_entropy() -> None:
    model = tiny("llama")
    encoded = [
        Encoded([1, 20, 30, 40], [False, True, False, True], "a"),
        Encoded([1, 50], [False, True], "b"),
    ]
    targets = [
        Target(encoded[0], torch.tensor([[5, 9], [7, 2]]), torch.tensor([[0.75, 0.25], [1.0, 0.0]])),
        Target(encoded[1], torch.tensor([[9, 11]]), torch.tensor([[0.5, 0.5]])),
    ]
    batch = collate(encoded, pad_id=0)
    view = compute_token_view(
        model,
        batch,
        needs=frozenset({Need.FORWARD_KL}),
        reference=TargetReference(targets, VOCAB),
        keys=[Key("forget", 0), Key("forget", 1)],
    )
    kl_BT = view.given(Need.FORWARD_KL)
    logq = model(batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits.log_softmax(-1)
    expected = {
        (0, 1): 0.75 * (torch.tensor(0.75).log() - logq[0, 0, 5])
        + 0.25 * (torch.tensor(0.25).log() - logq[0, 0, 9]),
        (0, 3): -logq[0, 2, 7],
        (1, 1): 0.5 * (2 * torch.tensor(0.5).log() - logq[1, 0, 9] - logq[1, 0, 11]),
    }
    for (row, place), value in expected.items():
        assert kl_BT[row, place].item() == pytest.approx(value.item(), rel=1e-5)
    assert kl_BT.count_nonzero() == 3
    (own,) = torch.autograd.grad(kl_BT.sum(), model.lm_head.weight, retain_graph=True)
    (written,) = torch.autograd.grad(sum(expected.values()), model.lm_head.weight)
    torch.testing.assert_close(own, written, rtol=1e-4, atol=1e-6)
