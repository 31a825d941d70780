from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.corpus.batching import PairBatch, collate
from expunge.forget.preference import NPO
from expunge.inference.reference import CachedReference, Key, LiveReference, Reference, cache_reference
from expunge.retain.losses import KLR
from expunge.train.objective.pair import PairObjective
from tests.batches import encoded, full_logps, own
from tests.tiny import PAD, VOCAB, tiny, with_lora

FORGET, RETAIN = encoded(seed=0), encoded(seed=50)
ORDER = [3, 0, 4]
TARGETS = ["q_proj", "down_proj"]


def keys(stream: Any, which: Sequence[int] = ORDER) -> list[Key]:
    return [Key(stream, index) for index in which]


def cached(model: nn.Module, *, head_may_change: bool = False, **settings: Any) -> CachedReference:
    return cache_reference(
        model,
        logps_of=[(Key("forget", i), one) for i, one in enumerate(FORGET)],
        states_of=[(Key("retain", i), one) for i, one in enumerate(RETAIN)],
        pad_id=PAD,
        head_may_change=head_may_change,
        **settings,
    )


def numbers(reference: Reference) -> tuple[Tensor, Tensor]:
    """Everything a loss may ask of a reference: log-probabilities, and logits of its states."""
    forget = collate([FORGET[i] for i in ORDER], pad_id=PAD)
    retain = collate([RETAIN[i] for i in ORDER], pad_id=PAD)
    states = reference.states(retain, keys("retain"))
    return reference.logps(forget, keys("forget")), reference.head(states).log_softmax(-1)


def shake(model: nn.Module) -> None:
    """Change every weight, as training would."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))


@pytest.mark.parametrize("arch", ["llama", "gemma2", "granite", "phi", "gpt2"])
def test_copy_and_cache_are_the_model_before_it_changed(arch: str) -> None:
    model = tiny(arch)
    expected_logps = torch.cat([own(full_logps(model, FORGET[i]), FORGET[i]) for i in ORDER]).detach()
    expected_all = torch.cat([full_logps(model, RETAIN[i]) for i in ORDER]).detach()
    references = [LiveReference.copied(model), cached(model, head_may_change=True)]
    shake(model)
    assert not torch.allclose(own(full_logps(model, FORGET[0]), FORGET[0]), expected_logps[2:10], atol=0.1)
    for reference in references:
        logps, logits = numbers(reference)
        torch.testing.assert_close(logps.double(), expected_logps, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits.double(), expected_all, rtol=1e-5, atol=1e-5)
        assert not logps.requires_grad
        assert not logits.requires_grad


def test_adapters_off_is_the_model_without_them() -> None:
    model = tiny("llama")
    references = [LiveReference.copied(model), cached(model)]
    adapted = with_lora(model, TARGETS)
    off = LiveReference(adapted, adapters_off=True)
    for reference in references:
        for one, two in zip(numbers(off), numbers(reference), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    on = LiveReference(adapted, adapters_off=False)
    assert not torch.allclose(numbers(on)[0], numbers(off)[0], atol=0.1)


def test_a_training_step_has_the_same_gradients_under_every_reference() -> None:
    model = tiny("llama")
    references: list[Any] = [LiveReference.copied(model), cached(model)]
    adapted = with_lora(model, TARGETS).train()
    references.append(LiveReference(adapted, adapters_off=True))
    batch = PairBatch(
        collate([FORGET[i] for i in ORDER], pad_id=PAD),
        collate([RETAIN[i] for i in ORDER], pad_id=PAD),
        torch.tensor(ORDER),
        torch.tensor(ORDER),
    )
    steps = []
    for reference in references:
        adapted.zero_grad()
        terms = PairObjective(NPO(), KLR(), reference)(adapted, batch)
        sum(terms.values()).backward()
        grads = {name: w.grad.clone() for name, w in adapted.named_parameters() if w.grad is not None}
        steps.append(({name: term.item() for name, term in terms.items()}, grads))
    terms, grads = steps[0]
    assert terms["forget"] > 1
    assert terms["retain"] > 0.01
    assert grads
    assert all("lora_" in name and grad.abs().max() > 0 for name, grad in grads.items())
    for other_terms, other_grads in steps[1:]:
        assert other_terms == pytest.approx(terms, rel=1e-5)
        assert other_grads.keys() == grads.keys()
        for name, grad in grads.items():
            torch.testing.assert_close(other_grads[name], grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_reading_a_live_reference_leaves_the_model_as_it_was(training: bool) -> None:
    adapted = with_lora(tiny("phi", resid_pdrop=0.5), ["q_proj"]).train(training)
    wanting = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    off = LiveReference(adapted, adapters_off=True)
    first, second = numbers(off), numbers(off)
    assert first[0].equal(second[0])  # no dropout
    assert adapted.training == training
    assert {name for name, weight in adapted.named_parameters() if weight.requires_grad} == wanting
    assert not adapted.base_model.model.model.layers[0].self_attn.q_proj.disable_adapters


def test_a_copy_is_frozen_and_the_model_is_not() -> None:
    model = tiny("llama").train()
    copy = LiveReference.copied(model)
    assert not any(weight.requires_grad for weight in copy.model.parameters())
    assert all(weight.requires_grad for weight in model.parameters())
    assert model.training
    assert not copy.model.training


def test_the_head_is_copied_only_when_it_may_change() -> None:
    model = tiny("llama")
    assert cached(model).frozen_head is model.lm_head
    copied = cached(model, head_may_change=True).frozen_head
    assert copied is not model.lm_head
    assert copied.weight.equal(model.lm_head.weight)
    assert not copied.weight.requires_grad
    assert model.lm_head.weight.requires_grad


def test_tied_embeddings_stay_tied_and_their_copy_stays_behind() -> None:
    model = tiny("llama", tie_word_embeddings=True)
    reference = cached(model, head_may_change=True)
    before = numbers(reference)
    with torch.no_grad():
        model.model.embed_tokens.weight.add_(1)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    for one, two in zip(numbers(reference), before, strict=True):
        assert one.equal(two)


def test_how_the_cache_was_filled_does_not_matter() -> None:
    model = tiny("llama").train()
    whole, single = cached(model, batch_tokens=10_000), cached(model, batch_tokens=1)
    assert model.training
    for one, two in zip(numbers(whole), numbers(single), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_the_cache_holds_one_number_or_one_state_per_counted_token() -> None:
    model = tiny("llama")
    reference = cached(model)
    counted = [sum(one.mask) for one in FORGET]
    assert [len(reference.token_logps[key]) for key in keys("forget", range(5))] == counted
    states = [reference.hidden[key].shape for key in keys("retain", range(5))]
    assert states == [(n, model.config.hidden_size) for n in counted]
    assert reference.bytes == sum(counted) * 4 * (1 + model.config.hidden_size)
    # No stored tensor keeps a whole batch alive.
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in reference.hidden.values())


def test_the_frozen_heads_logits_are_those_of_the_whole_model() -> None:
    model = tiny("gemma2")  # its head ends in a soft cap
    reference = cached(model, head_may_change=True)
    retain = collate([RETAIN[0]], pad_id=PAD)
    logits = reference.head(reference.states(retain, keys("retain", [0])))
    assert logits.shape == (sum(RETAIN[0].mask), VOCAB)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([RETAIN[0].input_ids])).logits[0, :-1]
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
