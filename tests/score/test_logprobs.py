from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from expunge.model.arch import output_head
from expunge.score import logprobs
from expunge.score.backbone import predictions
from expunge.score.logprobs import Direction, token_kl, token_logps
from expunge.score.look import look
from expunge.score.view import Need
from tests.batches import LENGTHS, batch_of, encoded, full_logps, own
from tests.tiny import ARCHITECTURES, HIDDEN, VOCAB, tiny

ROWS = 3


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", ROWS * VOCAB + 1)


def gradients(model: nn.Module, values: Tensor) -> dict[str, Tensor]:
    weights = torch.linspace(-1, 2, len(values), dtype=values.dtype)
    model.zero_grad()
    (values * weights).sum().backward()
    return {
        name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None
    }


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert any(grad.abs().max() > 1e-3 for grad in ours.values())
    for name, grad in ours.items():
        torch.testing.assert_close(grad, theirs[name], rtol=1e-4, atol=2e-5, msg=name)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_log_probabilities_and_their_gradients_are_those_of_full_logits(arch: str) -> None:
    model = tiny(arch)
    found = predictions(model, batch_of(prompt=2))
    ours = token_logps(output_head(model), found.hidden_NH, found.token_N, vocabulary=VOCAB)
    theirs = torch.cat([own(full_logps(model, one), one) for one in encoded(prompt=2)])
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    assert_same(gradients(model, ours), gradients(model, theirs))


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_divergences_and_their_gradients_are_those_of_full_logits(arch: str, direction: Direction) -> None:
    model, reference = tiny(arch), tiny(arch, seed=1)
    batch = batch_of()
    hidden, frozen = predictions(model, batch).hidden_NH, predictions(reference, batch).hidden_NH
    ours = token_kl(
        output_head(model),
        hidden,
        output_head(reference),
        frozen.detach(),
        vocabulary=VOCAB,
        direction=direction,
    )
    q = torch.cat([full_logps(model, one) for one in encoded()])
    p = torch.cat([full_logps(reference, one) for one in encoded()]).detach()
    theirs = (p.exp() * (p - q)).sum(-1) if direction == "forward" else (q.exp() * (q - p)).sum(-1)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    assert ours.min() > 0
    assert_same(gradients(model, ours), gradients(model, theirs))
    assert all(weight.grad is None for weight in reference.parameters())


def test_the_two_directions_by_hand() -> None:
    reference, model = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.75, 0.25]]).log()

    def kl(direction: Direction) -> float:
        return token_kl(_same, model, _same, reference, vocabulary=2, direction=direction).item()

    assert kl("forward") == pytest.approx(0.143841036, abs=1e-7)
    assert kl("reverse") == pytest.approx(0.130812036, abs=1e-7)


def test_a_constant_added_to_all_logits_changes_nothing() -> None:
    logits, token = torch.randn(7, VOCAB, generator=torch.Generator().manual_seed(0)), torch.arange(7)
    shifted = token_logps(_same, logits + 5, token, vocabulary=VOCAB)
    torch.testing.assert_close(shifted, token_logps(_same, logits, token, vocabulary=VOCAB))
    kl = token_kl(_same, logits + 3, _same, logits - 2, vocabulary=VOCAB)
    torch.testing.assert_close(kl, torch.zeros(7), atol=1e-6, rtol=0)


@pytest.mark.parametrize("train", [True, False])
def test_the_head_never_sees_more_than_a_chunk_of_rows(train: bool) -> None:
    model, reference = tiny("llama"), tiny("llama", seed=1)
    seen: list[torch.Size] = []
    for one in (model, reference):
        one.lm_head.register_forward_hook(lambda _module, _args, out: seen.append(out.shape))
    batch = batch_of()

    class Frozen:
        head = staticmethod(output_head(reference))

        def states(self, *_: object) -> Tensor:
            return predictions(reference, batch).hidden_NH.detach()

    with torch.set_grad_enabled(train):
        view = look(model, batch, needs=frozenset({Need.FORWARD_KL}), reference=Frozen(), keys=())
    if train:
        (view.logps.sum() + view.kl.sum()).backward()
        assert model.model.layers[0].mlp.up_proj.weight.grad.abs().max() > 0
    assert {shape[-1] for shape in seen} == {VOCAB}
    assert max(shape.numel() for shape in seen) == ROWS * VOCAB
    counted = sum(length - 1 for length in LENGTHS)
    # Once for the log-probabilities, twice for the divergence; while training all of it again.
    assert sum(shape[0] for shape in seen) == 3 * counted * (1 + train)


def test_chunks_are_recomputed_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    # What autograd keeps for the backward pass does not grow with rows times vocabulary.
    hidden = torch.randn(64, HIDDEN, requires_grad=True)
    weight = torch.randn(VOCAB, HIDDEN, requires_grad=True)
    kept: list[int] = []

    def measure(of: Callable[[], Tensor]) -> int:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: (kept.append(t.numel()), t)[1], lambda t: t
        ):
            of()
        return max(kept, default=0)

    token = torch.zeros(64, dtype=torch.long)
    measured = measure(lambda: token_logps(lambda h: h @ weight.t(), hidden, token, vocabulary=VOCAB))
    assert measured < 64 * VOCAB
    assert measure(lambda: (hidden @ weight.t()).log_softmax(-1)) == 64 * VOCAB  # the measure can tell


def test_nothing_counted_gives_nothing() -> None:
    empty = token_logps(_same, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), vocabulary=4)
    assert empty.shape == (0,)


def test_a_vocabulary_larger_than_a_chunk_goes_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 2)
    logps = token_logps(_same, torch.zeros(3, 8), torch.tensor([0, 3, 7]), vocabulary=8)
    torch.testing.assert_close(logps, torch.full((3,), -2.079441542))


def _same(logits: Tensor) -> Tensor:
    return logits
