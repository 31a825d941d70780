from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.adversary import AdversaryBatch, LossWeights, Step
from expunge.adversary.hooks import gradients, hooked_block, random_init
from expunge.adversary.latent import LatentAttack
from expunge.corpus.batching import Batch
from expunge.errors import RecipeError
from expunge.inference.forward import compute_token_view
from expunge.model.arch import blocks
from expunge.scope.lora import LowRankAdapters
from tests.batches import batch_of
from tests.tiny import HIDDEN, tiny

SHORT = batch_of()
RAGGED = batch_of((90, 9, 8, 33, 90, 7, 30, 8), prompt=3)
"""Long and short, so that it is read in several parts."""
NO_START = {"random_start": False, "layer": 1}


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Of each sequence the mean over its counted tokens, by full logits. Shape [B]."""
    logits = model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits[:, :-1]
    found = nn.functional.cross_entropy(logits.transpose(1, 2), batch.input_ids_BT[:, 1:], reduction="none")
    mask = batch.mask_BT[:, 1:]
    return (found * mask).sum(-1) / mask.sum(-1)


def found(attack: LatentAttack, model: nn.Module, batch: Batch, *, done: int = 0) -> Tensor:
    """The push an attack finds, as it reaches block 1: with it minus without."""
    pushed, plain = states(model, batch, attack, done), states(model, batch, None, done)
    return (pushed - plain).detach()


def states(model: nn.Module, batch: Batch, attack: LatentAttack | None, done: int) -> Tensor:
    """What block 1 reads of a batch, zero on padding."""
    hidden = torch.zeros(*batch.input_ids_BT.shape, HIDDEN)

    def note(_: Any, args: Any, __: Any) -> None:
        rows.append(args[0])

    def loss() -> Tensor:
        return -compute_token_view(model, batch).logps.sum()

    rows: list[Tensor] = []
    step = Step(model=model, pieces=[AdversaryBatch(batch=batch, loss=loss)], rows={}, done=done)
    with torch.no_grad():
        if attack is None:
            handle = blocks(model)[1].register_forward_pre_hook(note, with_kwargs=True)
            loss()
        else:
            with attack.prepare(step)(step.pieces[0]):
                handle = blocks(model)[1].register_forward_pre_hook(note, with_kwargs=True)
                loss()
    handle.remove()
    from expunge.inference.backbone import parts

    lengths = batch.attention_mask_BT.sum(-1).tolist()
    for own, state in zip(parts(lengths), rows, strict=True):
        hidden[own, : state.shape[1]] = state
    return hidden * batch.attention_mask_BT[..., None]


def test_one_step_worked_by_hand() -> None:
    model = tiny("llama")
    push = torch.zeros(*SHORT.input_ids_BT.shape, HIDDEN, requires_grad=True)
    handle = blocks(model)[1].register_forward_pre_hook(
        lambda _, args, kwargs: ((args[0] + push,), kwargs), with_kwargs=True
    )
    (slope,) = torch.autograd.grad(cross_entropy(model, SHORT).sum(), push)
    handle.remove()
    expected = -0.01 * slope / slope.flatten(1).norm(dim=1)[:, None, None]
    hidden = states(model, SHORT, None, 0)
    for own, moved, length in zip(hidden, expected, SHORT.attention_mask_BT.sum(-1), strict=True):
        top, bottom = own[:length].max(), own[:length].min()
        moved[:length] = (own + moved)[:length].clamp(bottom, top) - own[:length]
    ours = found(LatentAttack(radius=0.01, steps=1, **NO_START), model, SHORT)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("batch", [SHORT, RAGGED], ids=["short", "ragged"])
@pytest.mark.parametrize("random_start", [False, True])
def test_it_stays_in_the_ball_and_off_the_padding(batch: Batch, random_start: bool) -> None:
    attack = LatentAttack(radius=0.7, layer=1, random_start=random_start, steps=4)
    push = found(attack, tiny("llama"), batch)
    lengths = push.flatten(1).norm(dim=1)
    assert (lengths <= 0.7 * (1 + 1e-4)).all()
    assert (lengths > 0.05).all()


@pytest.mark.parametrize("batch", [SHORT, RAGGED], ids=["short", "ragged"])
def test_the_model_remembers_under_it(batch: Batch) -> None:
    model = tiny("llama")
    plain = cross_entropy(model, batch)
    falls = []
    for radius in (0.02, 0.5):
        step = Step(model=model, pieces=[AdversaryBatch(batch=batch, loss=plain.sum)], rows={})
        with LatentAttack(radius=radius, **NO_START).prepare(step)(step.pieces[0]):
            view = compute_token_view(model, batch)
            falls.append(plain + view.mean(view.logps))
    assert (falls[0] > 0).all()
    assert (falls[1] > falls[0]).all()


def test_a_small_push_lowers_the_loss_by_its_length_times_the_slope() -> None:
    model, radius = tiny("llama"), 1e-2
    push = torch.zeros(*SHORT.input_ids_BT.shape, HIDDEN, requires_grad=True)
    with hooked_block(model, 1, SHORT, lambda part, h: h + part.of(push)):
        view = compute_token_view(model, SHORT)
        length = gradients(-view.mean(view.logps).sum(), [push])[push].flatten(1).norm(dim=1)
        plain = view.mean(view.logps).detach()
    step = Step(model=model, pieces=[AdversaryBatch(batch=SHORT, loss=lambda: plain)], rows={})
    with LatentAttack(radius=radius, **NO_START).prepare(step)(step.pieces[0]):
        view = compute_token_view(model, SHORT)
        gained = view.mean(view.logps).detach() - plain
    # All of it but for what the range of the sequence's own numbers cuts off.
    assert (gained <= radius * length * 1.01).all()
    assert (gained >= radius * length * 0.9).all()


@pytest.mark.parametrize("arch", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_a_sequence_is_attacked_alike_whatever_it_is_read_with(arch: str) -> None:
    model = tiny(arch)
    attack = LatentAttack(radius=0.5, layer=1)
    together = found(attack, model, RAGGED)
    for row in (0, 3, 5):
        length = int(RAGGED.attention_mask_BT[row].sum())
        alone = Batch(*(t[row : row + 1, :length] for t in slots(RAGGED)))
        torch.testing.assert_close(
            found(attack, model, alone)[0], together[row, :length], atol=2e-3, rtol=1e-2
        )


def slots(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    return batch.input_ids_BT, batch.attention_mask_BT, batch.mask_BT


def test_a_share_is_one_of_the_hidden_states_after_the_first() -> None:
    model = tiny("llama")
    hidden = states(model, SHORT, None, 0)
    push = found(LatentAttack(radius=1e-3, unit="share", steps=2, **NO_START), model, SHORT)
    expected = 1e-3 * hidden[:, 1:].flatten(1).norm(dim=1)
    share = push.flatten(1).norm(dim=1) / expected
    assert (share <= 1 + 1e-3).all()
    assert (share >= 0.95).all()  # the rest was cut by the range


def test_no_number_leaves_the_range_of_the_sequence() -> None:
    model = tiny("llama")
    hidden = states(model, SHORT, None, 0)
    push = found(LatentAttack(radius=50.0, **NO_START), model, SHORT)
    for own, moved, length in zip(hidden, hidden + push, SHORT.attention_mask_BT.sum(-1), strict=True):
        assert moved[:length].max() <= own[:length].max() + 1e-4
        assert moved[:length].min() >= own[:length].min() - 1e-4


def test_random_starts_differ_by_step_and_sequence_and_by_nothing_else() -> None:
    like = torch.zeros(*SHORT.input_ids_BT.shape, HIDDEN)
    torch.manual_seed(5)
    first, again, later = (
        random_init(SHORT, like, 0),
        random_init(SHORT, like, 0),
        random_init(SHORT, like, 1),
    )
    assert first.equal(again)
    assert not first.allclose(later)
    assert not first[0, :3].allclose(first[1, :3])
    wider = Batch(*(nn.functional.pad(t, (0, 4)) for t in slots(SHORT)))
    assert random_init(wider, torch.zeros(len(like), like.shape[1] + 4, HIDDEN), 0)[:, :-4].equal(first)
    torch.manual_seed(6)
    assert not random_init(SHORT, like, 0).allclose(first)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_slope_of_the_weights_is_that_of_the_pushed_model(checkpointing: bool) -> None:
    model, copy = tiny("llama"), tiny("llama")
    attack = LatentAttack(radius=0.5, layer=1)
    push = found(attack, copy, RAGGED)
    handle = blocks(copy)[1].register_forward_pre_hook(
        lambda _, args, kwargs: ((args[0] + push,), kwargs), with_kwargs=True
    )
    expected = gradients(cross_entropy(copy, RAGGED).sum(), list(copy.parameters()))
    handle.remove()
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.train()

    def loss() -> Tensor:
        view = compute_token_view(model, RAGGED)
        return -view.mean(view.logps).sum()

    step = Step(model=model, pieces=[AdversaryBatch(batch=RAGGED, loss=loss)], rows={})
    with attack.prepare(step)(step.pieces[0]):
        ours = gradients(loss(), list(model.parameters()))
    for mine, theirs in zip(ours.values(), expected.values(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-4, rtol=1e-3)


def test_it_works_in_bfloat16_and_under_adapters() -> None:
    model: Any = LowRankAdapters(rank=2).prepare(tiny("llama")).bfloat16()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    loss = lambda: -compute_token_view(model, SHORT).logps.sum()  # noqa: E731
    plain = loss().item()
    step = Step(model=model, pieces=[AdversaryBatch(batch=SHORT, loss=loss)], rows={})
    with LatentAttack(radius=2.0, layer=1).prepare(step)(step.pieces[0]):
        assert loss().item() < plain
    assert loss().item() == plain
    assert all(weight.equal(before[name]) for name, weight in model.named_parameters())
    assert all(weight.grad is None for weight in model.parameters())


def test_only_its_own_batch_is_disturbed() -> None:
    model, other = tiny("llama"), batch_of((6, 4), seed=9)
    before = compute_token_view(model, other).logps.detach()
    step = Step(model=model, pieces=[AdversaryBatch(batch=SHORT, loss=before.sum)], rows={})
    with LatentAttack(radius=2.0, layer=1).prepare(step)(step.pieces[0]):
        assert compute_token_view(model, other).logps.equal(before)
        assert not compute_token_view(model, SHORT).logps.allclose(
            compute_token_view(tiny("llama"), SHORT).logps, atol=1e-3
        )


def test_without_a_budget_it_is_the_plain_method() -> None:
    assert LatentAttack(radius=0).shares(0, 9) == LossWeights(1, 0)
    assert LatentAttack(steps=0, random_start=False).shares(0, 9) == LossWeights(1, 0)
    assert LatentAttack(steps=0).shares(0, 9) == LossWeights(0, 1)
    assert LatentAttack().shares(0, 9) == LossWeights(0, 1)


@pytest.mark.parametrize(("layer", "reads", "at"), [(None, None, 1), (None, 0, 0), (0, 0, 0), (1, 1, 1)])
def test_it_stands_before_what_the_loss_reads(layer: int | None, reads: int | None, at: int) -> None:
    step = Step(model=tiny("llama"), pieces=[], rows={}, reads=reads)
    assert LatentAttack(layer=layer)._layer(step) == at


def test_an_attack_the_loss_would_not_notice_is_refused() -> None:
    step = Step(model=tiny("llama"), pieces=[], rows={}, reads=0)
    with pytest.raises(RecipeError, match=r"block 1: .*block 0 puts out.*layer to 0"):
        LatentAttack(layer=1).prepare(step)


def test_a_block_the_model_has_not_is_refused() -> None:
    model = tiny("llama")
    step = Step(model=model, pieces=[AdversaryBatch(batch=SHORT, loss=lambda: torch.zeros(()))], rows={})
    with (
        pytest.raises(RecipeError, match=r"block 7.*0 to 1"),
        LatentAttack(layer=7).prepare(step)(step.pieces[0]),
    ):
        pass
