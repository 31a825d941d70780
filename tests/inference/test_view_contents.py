"""What a loss may see beside log-probabilities: whole distributions, states inside, other answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from expunge.errors import RecipeError
from expunge.inference import logprobs
from expunge.inference.backbone import parts
from expunge.inference.forward import AlternateAnswers, compute_token_view
from expunge.inference.hidden_states import block_of
from expunge.inference.reference import Key, LiveReference, cache_reference
from expunge.inference.token_view import Need, TokenView
from expunge.model.arch import blocks
from tests.batches import LENGTHS, batch_of, encoded, full_logps, own
from tests.tiny import PAD, VOCAB, tiny


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 3 * VOCAB)
    monkeypatch.setattr(logprobs, "BLOCK_ELEMENTS", 2 * VOCAB)
    monkeypatch.setattr(logprobs, "KEPT_ELEMENTS", 6 * VOCAB)


def gradients(model: nn.Module, values: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    (values * torch.linspace(-1, 2, values.numel()).reshape(values.shape)).sum().backward()
    return {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert max(grad.abs().max() for grad in ours.values()) > 1e-3
    for name, grad in ours.items():
        torch.testing.assert_close(grad, theirs[name], rtol=1e-4, atol=2e-5, msg=name)


def logp(logits_MV: Tensor, token_M: Tensor, _: Tensor | None) -> Tensor:
    return logits_MV.log_softmax(-1).gather(-1, token_M[:, None]).squeeze(-1)


def forward_kl(logits_MV: Tensor, _: Tensor, reference_MV: Tensor | None) -> Tensor:
    assert reference_MV is not None
    p = reference_MV.log_softmax(-1)
    return (p.exp() * (p - logits_MV.log_softmax(-1))).sum(-1)


def test_a_rule_that_is_the_log_probability_gives_the_log_probability(few_rows: None) -> None:
    model = tiny("gemma2")
    view = compute_token_view(model, batch_of(prompt=2), needs=frozenset({Need.LOGITS}))
    seen = view.per_token(logp)
    torch.testing.assert_close(seen, view.logps)
    assert_same(
        gradients(model, seen), gradients(model, compute_token_view(model, batch_of(prompt=2)).logps)
    )


def test_a_rule_that_is_the_divergence_gives_the_divergence(few_rows: None) -> None:
    model, reference = tiny("llama"), LiveReference.copied(tiny("llama", seed=1))
    needs = frozenset({Need.REFERENCE_LOGITS, Need.FORWARD_KL})
    view = compute_token_view(model, batch_of(), needs=needs, reference=reference)
    ours, theirs = view.per_token(forward_kl), view.given(Need.FORWARD_KL)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    again = compute_token_view(model, batch_of(), needs=needs, reference=reference)
    assert_same(gradients(model, ours), gradients(model, again.given(Need.FORWARD_KL)))


def test_a_rule_may_hold_a_part_constant(few_rows: None) -> None:
    def half(logits_MV: Tensor, token_M: Tensor, _: Tensor | None) -> Tensor:
        return logp(logits_MV, token_M, None) * logp(logits_MV, token_M, None).detach()

    model = tiny("llama")
    view = compute_token_view(model, batch_of(), needs=frozenset({Need.LOGITS}))
    found = gradients(model, view.per_token(half))
    other = compute_token_view(model, batch_of())
    assert_same(found, gradients(model, other.logps * other.logps.detach()))


def test_a_loss_sees_few_rows_of_logits_at_once(few_rows: None) -> None:
    seen: list[int] = []

    def count(logits_MV: Tensor, token_M: Tensor, reference_MV: Tensor | None) -> Tensor:
        seen.append(len(logits_MV))
        assert reference_MV is not None
        assert reference_MV.shape == logits_MV.shape
        assert token_M.dtype == torch.long
        return logits_MV[:, 0]

    needs = frozenset({Need.REFERENCE_LOGITS})
    compute_token_view(tiny("llama"), batch_of(), needs=needs).per_token(count)
    assert max(seen) <= 2
    assert sum(seen) >= sum(length - 1 for length in LENGTHS)


def test_without_a_reference_its_logits_are_the_models_own_and_held_constant() -> None:
    model = tiny("llama")
    view = compute_token_view(model, batch_of(), needs=frozenset({Need.REFERENCE_LOGITS, Need.FORWARD_KL}))
    values = view.per_token(forward_kl)
    assert values.abs().max() < 1e-6
    values.sum().backward()
    assert all(w.grad is None or w.grad.abs().max() < 1e-5 for w in model.parameters())
    assert view.given(Need.FORWARD_KL).abs().max() < 1e-6


LAYER = 1
INSIDE = frozenset({Need.HIDDEN, Need.REFERENCE_HIDDEN})


def states(model: nn.Module, ids: list[int], layer: int) -> Tensor:
    """What a block puts out for one sequence alone, by a hook of the test's own."""
    found = []
    hook = blocks(model)[layer].register_forward_hook(lambda _, __, out: found.append(out))
    model(torch.tensor([ids]))
    hook.remove()
    return (found[0][0] if isinstance(found[0], tuple) else found[0]).reshape(len(ids), -1)


@pytest.mark.parametrize("arch", ["llama", "gpt2", "gpt_neox"])
def test_states_inside_stand_where_the_tokens_they_predict_stand(arch: str) -> None:
    model = tiny(arch)
    batch = batch_of(prompt=2)
    hidden = compute_token_view(model, batch, needs=frozenset({Need.HIDDEN}), layer=LAYER).given(
        Need.HIDDEN
    )
    for row, one in zip(hidden, encoded(prompt=2), strict=True):
        alone = states(model, one.input_ids, LAYER)
        for place, counts in enumerate(one.mask):
            expected = alone[place - 1] if counts else torch.zeros_like(alone[0])
            torch.testing.assert_close(row[place], expected, rtol=1e-4, atol=1e-5)
        assert not row[len(one.mask) :].any()


def test_a_batch_read_in_parts_gives_the_same_states(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    whole = compute_token_view(model, batch_of(), needs=frozenset({Need.HIDDEN}), layer=0).given(
        Need.HIDDEN
    )
    monkeypatch.setattr("expunge.inference.backbone.SMALLEST_PART", 1)
    monkeypatch.setattr("expunge.inference.backbone.WORTH_SPLITTING", 0.01)
    assert len(parts(batch_of().attention_mask_BT.sum(-1).tolist())) > 1
    split = compute_token_view(model, batch_of(), needs=frozenset({Need.HIDDEN}), layer=0).given(
        Need.HIDDEN
    )
    torch.testing.assert_close(split, whole, rtol=1e-5, atol=1e-5)


def test_states_carry_gradients_to_their_block_and_no_further() -> None:
    model = tiny("llama")
    compute_token_view(model, batch_of(), needs=frozenset({Need.HIDDEN}), layer=0).given(
        Need.HIDDEN
    ).sum().backward()
    reached = {name for name, w in model.named_parameters() if w.grad is not None}
    assert any("layers.0" in name for name in reached)
    assert not any("layers.1" in name or "lm_head" in name for name in reached)


def references(model: nn.Module, layer: int | None) -> list[Callable[[], object]]:
    items = [(Key("forget", i), one) for i, one in enumerate(encoded())]
    cache = cache_reference(
        model, logps_of=(), states_of=(), pad_id=PAD, head_may_change=False, inner_of={layer: items}
    )
    return [lambda: LiveReference.copied(model), lambda: cache]


@pytest.mark.parametrize("layer", [0, 1, None])
def test_the_reference_remembers_its_states_inside(layer: int | None) -> None:
    before, after = tiny("llama"), tiny("llama", seed=1)
    keys = [Key("forget", i) for i in range(len(LENGTHS))]
    truth = compute_token_view(before, batch_of(), needs=frozenset({Need.HIDDEN}), layer=layer).given(
        Need.HIDDEN
    )
    for reference in references(before, layer):
        view = compute_token_view(
            after, batch_of(), needs=INSIDE, reference=reference(), keys=keys, layer=layer
        )
        torch.testing.assert_close(view.given(Need.REFERENCE_HIDDEN), truth.detach(), rtol=1e-4, atol=1e-5)
        assert not view.given(Need.REFERENCE_HIDDEN).requires_grad
        assert (view.given(Need.HIDDEN) - truth).abs().max() > 1e-2


def test_the_usual_depth_is_seven_of_thirty_two_and_a_missing_block_is_refused() -> None:
    assert [block_of(tiny("llama", num_hidden_layers=n), None) for n in (2, 5)] == [0, 1]
    assert block_of(tiny("llama"), 1) == 1
    with pytest.raises(RecipeError, match="blocks 0 to 1"):
        compute_token_view(tiny("llama"), batch_of(), needs=frozenset({Need.HIDDEN}), layer=2)


def test_a_mean_of_states_leaves_out_what_the_first_token_predicts() -> None:
    mask = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 0], [0, 1, 0, 0]]).bool()
    view = TokenView(logps=torch.zeros(3, 4), mask=mask)
    values = torch.tensor([[9.0, 100, 2, 4], [9, 9, 5, 9], [9, 7, 9, 9]])
    assert view.mean_inside(values).tolist() == [3, 5, 7]
    assert view.mask is mask
    assert mask[0, 1]


def test_other_answers_are_a_view_of_their_own_with_the_references_numbers() -> None:
    model, reference = tiny("llama"), LiveReference.copied(tiny("llama", seed=1))
    others = batch_of(prompt=3)
    needs = frozenset({Need.ALTERNATE, Need.REFERENCE_LOGPS})
    view = compute_token_view(
        model, batch_of(), needs=needs, reference=reference, alternates=AlternateAnswers(others)
    )
    alone = compute_token_view(model, others, needs=frozenset({Need.REFERENCE_LOGPS}), reference=reference)
    torch.testing.assert_close(view.others().logps, alone.logps)
    torch.testing.assert_close(view.others().given(Need.REFERENCE_LOGPS), alone.given(Need.REFERENCE_LOGPS))
    theirs = torch.stack([own(full_logps(model, one), one).float().sum() for one in encoded(prompt=3)])
    torch.testing.assert_close(view.others().total(view.others().logps), theirs, rtol=1e-4, atol=1e-4)
    assert view.by_example(torch.arange(10.0)).tolist() == [[i * 2.0, i * 2 + 1.0] for i in range(5)]


def test_what_was_not_asked_for_is_not_there() -> None:
    view = compute_token_view(tiny("llama"), batch_of(), alternates=AlternateAnswers(batch_of()))
    with pytest.raises(LookupError, match="alternate"):
        view.others()
    with pytest.raises(LookupError, match="logits"):
        view.per_token(logp)
    for need in INSIDE:
        with pytest.raises(LookupError, match=need.value):
            view.given(need)


def test_a_loss_that_looks_at_other_answers_alone_never_reads_the_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, read = tiny("llama"), []
    model.register_forward_pre_hook(lambda *_: read.append(1))
    model.model.register_forward_pre_hook(lambda *_: read.append(1))
    view = compute_token_view(
        model,
        batch_of(),
        needs=frozenset({Need.ALTERNATE}),
        alternates=AlternateAnswers(batch_of(prompt=2)),
    )
    _ = view.others().logps
    assert len(read) == 1
