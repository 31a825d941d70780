from __future__ import annotations

import torch

from expunge.inference.backbone import predictions
from expunge.inference.forward import compute_token_view
from expunge.inference.reference import LiveReference
from expunge.inference.token_view import Need
from expunge.model.arch import output_head
from tests.batches import LENGTHS, batch_of, encoded, full_logps, own
from tests.tiny import tiny


def test_a_view_shows_each_tokens_number_in_its_place() -> None:
    model = tiny("llama")
    view = compute_token_view(model, batch_of(prompt=2))
    assert view.mask.equal(batch_of(prompt=2).mask_BT)
    assert view.logps.shape == (len(LENGTHS), max(LENGTHS))
    for row, one in zip(view.logps, encoded(prompt=2), strict=True):
        expected = torch.zeros(max(LENGTHS))
        expected[: len(one.mask)][torch.tensor(one.mask)] = own(full_logps(model, one), one).float()
        torch.testing.assert_close(row, expected, rtol=1e-5, atol=1e-5)
    assert view.reference_logps is None
    assert view.kl is None


def test_without_a_reference_the_model_is_its_own() -> None:
    view = compute_token_view(tiny("llama"), batch_of(), needs=frozenset({Need.REFERENCE_LOGPS}))
    assert view.reference_logps.equal(view.logps)
    assert view.logps.requires_grad
    assert not view.reference_logps.requires_grad


def test_the_reference_gives_what_is_needed_and_nothing_else() -> None:
    model, other = tiny("llama"), tiny("llama", seed=1)
    reference = LiveReference.copied(other)
    view = compute_token_view(
        model, batch_of(), needs=frozenset({Need.REFERENCE_LOGPS}), reference=reference
    )
    torch.testing.assert_close(view.reference_logps, compute_token_view(other, batch_of()).logps.detach())
    assert view.kl is None
    assert compute_token_view(model, batch_of(), reference=reference).reference_logps is None


def test_a_divergence_is_never_negative_and_zero_from_oneself() -> None:
    model = tiny("llama")
    needs = frozenset({Need.FORWARD_KL})
    same = compute_token_view(model, batch_of(), needs=needs, reference=LiveReference.copied(model))
    torch.testing.assert_close(same.kl, torch.zeros_like(same.kl), atol=1e-6, rtol=0)
    other = compute_token_view(
        model, batch_of(), needs=needs, reference=LiveReference.copied(tiny("llama", seed=1))
    )
    assert other.kl[other.mask].min() > 0
    assert other.kl[~other.mask].abs().max() == 0


def test_the_reference_is_given_the_keys_of_the_batch() -> None:
    model, asked = tiny("llama"), []

    class Recording:
        def logps(self, batch: object, keys: object) -> torch.Tensor:
            asked.append((batch, keys))
            return torch.zeros(sum(length - 1 for length in LENGTHS))

        head = staticmethod(output_head(model))
        states = staticmethod(lambda batch, keys: predictions(model, batch).hidden_NH)

    batch = batch_of()
    compute_token_view(
        model, batch, needs=frozenset({Need.REFERENCE_LOGPS}), reference=Recording(), keys=("a", "b")
    )
    assert asked == [(batch, ("a", "b"))]
