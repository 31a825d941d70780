from __future__ import annotations

import pytest
import torch
from torch import Tensor

from expunge.corpus.batching import PairDataset, collate_pairs
from expunge.forget.ascent import GA
from expunge.forget.preference import NPO
from expunge.inference.reference import LiveReference
from expunge.inference.token_view import TokenView
from expunge.retain import RetainLoss
from expunge.retain.losses import GDR, KLR
from expunge.train.objective.pair import PairObjective
from tests.tiny import PAD, tiny
from tests.train.trainers import FORGET, RETAIN, assert_close

PAIRS = PairDataset(FORGET, RETAIN)
BATCH = collate_pairs([PAIRS[0, 2], PAIRS[3, 0], PAIRS[4, 2]], pad_id=PAD)
REFERENCE = LiveReference.copied(tiny("llama", seed=1))
ALPHA = 3.0


def gradient(forget: float, retain: RetainLoss | None, *, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Gradient of some terms of the objective; the forget term times ``forget``."""
    model = tiny("llama")
    terms = PairObjective(NPO(beta=0.5), retain, REFERENCE)(model, BATCH)
    sum(terms[name] * (forget if name == "forget" else 1) for name in names).backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("retain", [GDR, KLR])
def test_the_total_gradient_is_forget_plus_alpha_retain(retain: type[RetainLoss]) -> None:
    total = gradient(1, retain(weight=ALPHA), names=("forget", "retain"))
    forget = gradient(1, retain(weight=ALPHA), names=("forget",))
    bare = gradient(1, retain(), names=("retain",))
    assert_close(total, {name: forget[name] + ALPHA * bare[name] for name in total}, atol=1e-4)
    assert max(grad.abs().max() for grad in forget.values()) > 0.1
    assert max(grad.abs().max() for grad in bare.values()) > 0.1


def test_alpha_nought_is_the_forget_loss_alone() -> None:
    both = gradient(1, GDR(weight=0), names=("forget", "retain"))
    assert_close(both, gradient(1, None, names=("forget",)), atol=1e-6)


def test_a_term_is_a_sum_over_examples_that_do_not_know_of_each_other() -> None:
    objective = PairObjective(NPO(), KLR(weight=ALPHA), REFERENCE)
    model = tiny("llama")
    together = objective(model, BATCH)
    alone = [
        objective(model, collate_pairs([PAIRS[f, r]], pad_id=PAD)) for f, r in ((0, 2), (3, 0), (4, 2))
    ]
    for name in ("forget", "retain"):
        torch.testing.assert_close(
            together[name], sum(terms[name] for terms in alone), rtol=1e-4, atol=1e-4
        )
        assert together[name].shape == ()


def test_without_a_retain_loss_or_a_retain_set_there_is_one_term() -> None:
    alone = collate_pairs([PAIRS[0, None]], pad_id=PAD)
    assert PairObjective(GA(), None, None)(tiny("llama"), BATCH).keys() == {"forget"}
    assert PairObjective(GA(), GDR(), None)(tiny("llama"), alone).keys() == {"forget"}


def test_each_loss_is_given_its_own_sequences_and_keys() -> None:
    asked = []

    class Recording(LiveReference):
        def logps(self, batch: object, keys: object) -> Tensor:
            asked.append(keys)
            return super().logps(batch, keys)

        def states(self, batch: object, keys: object) -> Tensor:
            asked.append(keys)
            return super().states(batch, keys)

    reference = Recording(REFERENCE.model, adapters_off=False)
    PairObjective(NPO(), KLR(), reference)(tiny("llama"), BATCH)
    assert asked == [
        [("forget", 0), ("forget", 3), ("forget", 4)],
        [("retain", 2), ("retain", 0), ("retain", 2)],
    ]


def test_a_loss_may_not_read_what_it_did_not_ask_for() -> None:
    class Greedy(GDR):
        def __call__(self, view: TokenView) -> Tensor:
            return KLR()(view)

    with pytest.raises(LookupError, match="forward_kl"):
        PairObjective(GA(), Greedy(), REFERENCE)(tiny("llama"), BATCH)
