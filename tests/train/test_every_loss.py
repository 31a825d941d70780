"""What holds for every loss: pieces, padding, references, scopes and adversaries change nothing of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.adversary.latent import LatentAttack
from expunge.adversary.weights import SharpnessAware
from expunge.corpus.batching import Batch, PairBatch, PairDataset, collate_pairs
from expunge.forget import ForgetLoss, forget_losses
from expunge.forget.ascent import GA
from expunge.inference.reference import LiveReference, Reference
from expunge.inference.token_view import OF_REFERENCE, Need
from expunge.retain import RetainLoss, retain_losses
from expunge.retain.losses import GDR
from expunge.scope.selection import Selection
from expunge.train.objective.pair import PairObjective
from expunge.train.objective.reference import ReferenceRequest, forget_gradient, frozen_reference
from tests.batches import encoded
from tests.tiny import PAD, tiny, with_lora
from tests.train.hard import slope, under
from tests.train.trainers import FORGET, RETAIN, assert_close

OTHERS = [encoded((4 + i, 8 - i), seed=90 + i, prompt=2) for i in range(len(FORGET))]
DATA = PairDataset(FORGET, RETAIN, OTHERS)
DRAWN = [(0, 2), (3, 0), (4, 2), (1, 1)]
GIVEN_TARGETS = {"generic"}
"""Losses whose targets another stage finds; tested with it."""

FORGETS = sorted(set(forget_losses) - GIVEN_TARGETS)
RETAINS = sorted(retain_losses)
SETTINGS: dict[str, dict[str, Any]] = {"rmu": {"layer": 1}, "states": {"layer": 1}}


def forget_loss(name: str) -> ForgetLoss:
    return forget_losses.build({"name": name, **SETTINGS.get(name, {})})


def retain_loss(name: str) -> RetainLoss:
    return retain_losses.build({"name": name, "weight": 2.0, **SETTINGS.get(name, {})})


def batch(*drawn: tuple[int, int]) -> PairBatch:
    return collate_pairs([DATA[pair] for pair in drawn or DRAWN], pad_id=PAD)


def reference() -> Reference:
    return LiveReference.copied(tiny("llama", seed=1))


def gradient(objective: PairObjective, batches: Sequence[PairBatch]) -> dict[str, Tensor]:
    """The gradient of a step, piece by piece."""
    model = tiny("llama")
    count = sum(len(piece.forget_ids) for piece in batches)
    for piece in batches:
        (torch.stack(list(objective(model, piece).values())).sum() / count).backward()
    return {name: w.grad for name, w in model.named_parameters() if w.grad is not None}


def objectives() -> list[Any]:
    made = [pytest.param(PairObjective(forget_loss(name), GDR(), reference()), id=name) for name in FORGETS]
    return made + [
        pytest.param(PairObjective(GA(), retain_loss(name), reference()), id=name) for name in RETAINS
    ]


EVERY = pytest.mark.parametrize("objective", objectives())


@EVERY
def test_a_step_in_pieces_is_the_same_step(objective: PairObjective) -> None:
    whole = gradient(objective, [batch()])
    assert max(grad.abs().max() for grad in whole.values()) > 1e-3
    for cuts in ([DRAWN[:2], DRAWN[2:]], [[pair] for pair in reversed(DRAWN)]):
        assert_close(gradient(objective, [batch(*cut) for cut in cuts]), whole, atol=2e-5)


def wider(one: Batch | None) -> Batch | None:
    """Columns of padding that no sequence reaches, filled with an ordinary token."""
    if one is None:
        return None
    ids = nn.functional.pad(one.input_ids_BT, (0, 13), value=77)
    rest = (nn.functional.pad(part, (0, 13)) for part in (one.attention_mask_BT, one.mask_BT))
    return Batch(ids, *rest)


@EVERY
def test_padding_changes_nothing(objective: PairObjective) -> None:
    plain = batch()
    forget = wider(plain.forget)
    assert forget is not None
    padded = replace(plain, forget=forget, retain=wider(plain.retain), alternate=wider(plain.alternate))
    assert_close(gradient(objective, [padded]), gradient(objective, [plain]), atol=2e-5)


def asked(forget: frozenset[Need], retain: frozenset[Need]) -> ReferenceRequest:
    return ReferenceRequest(
        forget=forget,
        retain=retain,
        data=DATA,
        forget_seen=list(range(len(DATA))),
        retain_seen=[0, 1, 2],
        layers=(1, 1),
    )


@pytest.mark.parametrize(
    ("forget", "retain"),
    [(name, None) for name in FORGETS if forget_loss(name).needs & OF_REFERENCE]
    + [(None, name) for name in RETAINS if retain_loss(name).needs & OF_REFERENCE],
)
def test_every_kind_of_reference_says_the_same(forget: str | None, retain: str | None) -> None:
    # Under adapters all three kinds are there: off, remembered, and a copy without any.
    model = with_lora(tiny("llama"), ["q_proj", "down_proj"])
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.zero_()  # as adapters begin
    own = forget_loss(forget) if forget else GA()
    kept = retain_loss(retain) if retain else GDR()
    found = []
    for kind in ("adapter_off", "cache", "copy"):
        frozen = frozen_reference(
            model,
            kind,
            asked(own.needs, kept.needs),
            selection=Selection({}),
            adapters=True,
            pad_id=PAD,
        )
        assert frozen is not None
        found.append(frozen)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(generator=torch.Generator().manual_seed(3))
    values = [
        torch.stack(list(PairObjective(own, kept, frozen)(model, batch()).values())) for frozen in found
    ]
    torch.testing.assert_close(values[1], values[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(values[2], values[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FORGETS)
def test_saliency_is_the_slope_at_the_start_in_any_batches(name: str) -> None:
    loss = forget_loss(name)
    found = [
        forget_gradient(tiny("llama"), loss, FORGET, pad_id=PAD, batch_size=size, alternates=OTHERS)
        for size in (2, 5)
    ]
    assert_close(found[0], found[1], atol=2e-5)
    model = tiny("llama")
    objective = PairObjective(loss, None, LiveReference.copied(model))
    everything = collate_pairs([DATA[i, None] for i in range(len(FORGET))], pad_id=PAD)
    whole = slope(model, objective(model, everything)["forget"] / len(FORGET))
    assert_close({key: found[0][key] for key in whole}, whole, atol=2e-5)


@pytest.mark.parametrize(
    "adversary", [SharpnessAware(rho=0.05), LatentAttack(layer=1, radius=0.5, steps=1)]
)
@pytest.mark.parametrize("name", FORGETS)
def test_under_an_adversary_pieces_are_the_same_step_and_no_trace_is_left(
    name: str, adversary: Any
) -> None:
    def step(cuts: list[list[tuple[int, int]]]) -> dict[str, Tensor]:
        model = tiny("llama")
        before = {key: weight.detach().clone() for key, weight in model.named_parameters()}
        plain = PairObjective(forget_loss(name), None, LiveReference.copied(tiny("llama", seed=1)))
        hard = under(adversary, model, plain=plain)["objective"]
        pieces = [batch(*cut) for cut in cuts]
        hard.begin(model, pieces, 0, 1)
        for piece in pieces:
            (torch.stack(list(hard(model, piece).values())).sum() / len(DRAWN)).backward()
        assert all(weight.equal(before[key]) for key, weight in model.named_parameters())
        return {key: w.grad for key, w in model.named_parameters() if w.grad is not None}

    assert_close(step([DRAWN[:1], DRAWN[1:]]), step([DRAWN]), atol=5e-4)
