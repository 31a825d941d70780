from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from expunge.inference import logprobs
from expunge.inference.backbone import predictions
from expunge.inference.forward import compute_token_view
from expunge.inference.logprobs import Direction, token_jsd, token_kl, token_logps
from expunge.inference.token_view import Need
from expunge.model.arch import output_head
from tests.batches import LENGTHS, batch_of, encoded, full_logps, own
from tests.tiny import ARCHITECTURES, HIDDEN, VOCAB, tiny

ROWS = 3


@pytest.fixture(autouse=True, params=[0, 2 * ROWS], ids=["nothing kept", "some kept"])
def several_chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", ROWS * VOCAB + 1)
    monkeypatch.setattr(logprobs, "BLOCK_ELEMENTS", 2 * VOCAB)
    monkeypatch.setattr(logprobs, "KEPT_ELEMENTS", request.param * VOCAB)
    kept: int = request.param
    return kept


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


@pytest.mark.parametrize("arch", ["llama", "gemma2", "granite", "phi"])
def test_jensen_shannon_and_its_gradients_are_those_of_full_logits(arch: str) -> None:
    model, reference = tiny(arch), tiny(arch, seed=1)
    batch = batch_of()
    hidden, frozen = predictions(model, batch).hidden_NH, predictions(reference, batch).hidden_NH
    ours = token_jsd(output_head(model), hidden, output_head(reference), frozen.detach(), vocabulary=VOCAB)
    q = torch.cat([full_logps(model, one) for one in encoded()])
    p = torch.cat([full_logps(reference, one) for one in encoded()]).detach()
    log_m = ((p.exp() + q.exp()) / 2).log()
    theirs = (p.exp() * (p - log_m) + q.exp() * (q - log_m)).sum(-1) / 2
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)
    assert_same(gradients(model, ours), gradients(model, theirs))


def test_jensen_shannon_by_hand() -> None:
    def jsd(p: list[float], q: list[float]) -> float:
        return token_jsd(
            _same, torch.tensor([p]).log(), _same, torch.tensor([q]).log(), vocabulary=2
        ).item()

    # KGA's code, with the arguments of KL swapped, gives 0.117973 for the first.
    assert jsd([0.5, 0.5], [0.9, 0.1]) == pytest.approx(0.101749, abs=1e-6)
    assert jsd([0.9, 0.1], [0.5, 0.5]) == pytest.approx(0.101749, abs=1e-6)
    assert jsd([0.3, 0.7], [0.3, 0.7]) == pytest.approx(0.0, abs=1e-7)
    assert jsd([1 - 1e-7, 1e-7], [1e-7, 1 - 1e-7]) == pytest.approx(0.693147, abs=1e-5)


def test_a_constant_added_to_all_logits_changes_nothing() -> None:
    logits, token = torch.randn(7, VOCAB, generator=torch.Generator().manual_seed(0)), torch.arange(7)
    shifted = token_logps(_same, logits + 5, token, vocabulary=VOCAB)
    torch.testing.assert_close(shifted, token_logps(_same, logits, token, vocabulary=VOCAB))
    kl = token_kl(_same, logits + 3, _same, logits - 2, vocabulary=VOCAB)
    torch.testing.assert_close(kl, torch.zeros(7), atol=1e-6, rtol=0)


@pytest.mark.parametrize("training", ["all", "below the head", "nothing"])
def test_how_often_the_head_sees_a_row(training: str, several_chunks: int) -> None:
    model, reference = tiny("llama"), tiny("llama", seed=1)
    model.lm_head.requires_grad_(training == "all")
    seen: list[torch.Size] = []
    for one in (model, reference):
        one.lm_head.register_forward_hook(lambda _module, _args, out: seen.append(out.shape))
    batch = batch_of()

    class Frozen:
        head = staticmethod(output_head(reference))

        def states(self, *_: object) -> Tensor:
            return predictions(reference, batch).hidden_NH.detach()

    with torch.set_grad_enabled(training != "nothing"):
        view = compute_token_view(
            model, batch, needs=frozenset({Need.FORWARD_KL}), reference=Frozen(), keys=()
        )
    counted = sum(length - 1 for length in LENGTHS)
    assert sum(shape[0] for shape in seen) == 2 * counted  # nobody looked at the log-probabilities yet
    with torch.set_grad_enabled(training != "nothing"):
        loss = view.logps.sum() + view.kl.sum() + view.logps.sum()
    if training != "nothing":
        loss.backward()
        assert model.model.layers[0].mlp.up_proj.weight.grad.abs().max() > 0
    kept = several_chunks if training == "all" else 0
    again = counted - kept if training == "all" else 0
    assert {shape[-1] for shape in seen} == {VOCAB}
    assert max(shape.numel() for shape in seen) == max(ROWS, kept) * VOCAB
    assert sum(shape[0] for shape in seen) == 3 * (counted + again)


@pytest.mark.parametrize("trained", [True, False])
def test_what_is_kept_does_not_grow_with_rows_times_vocabulary(trained: bool, several_chunks: int) -> None:
    hidden = torch.randn(64, HIDDEN, requires_grad=True)
    weight = torch.randn(VOCAB, HIDDEN, requires_grad=trained)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    def measure(of: Callable[[], Tensor]) -> int:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            of()
        return sum(kept.values())

    token = torch.zeros(64, dtype=torch.long)
    measured = measure(lambda: token_logps(lambda h: h @ weight.t(), hidden, token, vocabulary=VOCAB))
    rows_kept = several_chunks if trained else 0
    known = 2 * 64 * HIDDEN + VOCAB * HIDDEN + 2 * 64
    assert measured <= known + rows_kept * VOCAB
    assert measure(lambda: (hidden @ weight.t()).log_softmax(-1)) >= 64 * VOCAB  # the measure can tell


@pytest.mark.parametrize("arch", ["llama", "gemma2"])
def test_a_frozen_head_passes_the_same_gradients_on(arch: str) -> None:
    model, reference = tiny(arch), tiny(arch, seed=1)
    batch = batch_of()
    frozen = predictions(reference, batch).hidden_NH.detach()

    def gradients_with(*, head_trains: bool) -> Tensor:
        model.get_output_embeddings().weight.requires_grad_(head_trains)
        found = predictions(model, batch)
        hidden = found.hidden_NH.detach().requires_grad_()
        logps = token_logps(output_head(model), hidden, found.token_N, vocabulary=VOCAB)
        kl = token_kl(output_head(model), hidden, output_head(reference), frozen, vocabulary=VOCAB)
        weights = torch.linspace(-1, 2, len(hidden))
        (grad,) = torch.autograd.grad((weights * (logps + 2 * kl)).sum(), hidden)
        return grad

    torch.testing.assert_close(gradients_with(head_trains=False), gradients_with(head_trains=True))


@pytest.mark.parametrize("trained", [True, False])
def test_a_second_backward_pass_gives_the_same_again(trained: bool) -> None:
    hidden = torch.randn(10, HIDDEN, requires_grad=True)
    weight = torch.randn(VOCAB, HIDDEN, requires_grad=trained)
    logps = token_logps(lambda h: h @ weight.t(), hidden, torch.arange(10), vocabulary=VOCAB)
    (first,) = torch.autograd.grad(logps.sum(), hidden, retain_graph=True)
    (second,) = torch.autograd.grad(logps.sum(), hidden)
    assert first.abs().max() > 0
    assert first.equal(second)


def test_a_head_that_returns_what_it_is_given_leaves_it_alone() -> None:
    logits = torch.randn(7, VOCAB, requires_grad=True)
    before, token = logits.detach().clone(), torch.arange(7)
    (grad,) = torch.autograd.grad(token_logps(_same, logits, token, vocabulary=VOCAB).sum(), logits)
    torch.testing.assert_close(grad, torch.eye(VOCAB)[:7] - before.softmax(-1))
    assert logits.equal(before)


def test_states_in_half_precision_get_gradients_of_their_own_kind() -> None:
    hidden = torch.randn(10, HIDDEN, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(VOCAB, HIDDEN, dtype=torch.bfloat16, requires_grad=True)
    values = token_logps(lambda h: h @ weight.t(), hidden, torch.arange(10), vocabulary=VOCAB)
    exact = (hidden @ weight.t()).float().log_softmax(-1)[torch.arange(10), torch.arange(10)]
    torch.testing.assert_close(values, exact)
    ours = torch.autograd.grad(values.sum(), (hidden, weight))
    for mine, theirs in zip(ours, torch.autograd.grad(exact.sum(), (hidden, weight)), strict=True):
        assert mine.dtype == torch.bfloat16
        torch.testing.assert_close(mine, theirs, rtol=0.03, atol=0.03 * float(theirs.abs().max()))


def test_nothing_counted_gives_nothing() -> None:
    empty = token_logps(_same, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), vocabulary=4)
    assert empty.shape == (0,)


def test_a_vocabulary_larger_than_a_chunk_goes_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 2)
    logps = token_logps(_same, torch.zeros(3, 8), torch.tensor([0, 3, 7]), vocabulary=8)
    torch.testing.assert_close(logps, torch.full((3,), -2.079441542))


def _same(logits: Tensor) -> Tensor:
    return logits
