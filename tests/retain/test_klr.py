from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.corpus.batching import collate
from expunge.corpus.tokenise import encode
from expunge.errors import RecipeError
from expunge.inference.forward import compute_token_view
from expunge.inference.reference import LiveReference
from expunge.inference.token_view import Need
from expunge.retain import retain_losses
from expunge.retain.losses import KLR
from expunge.train.methods.unlearn import Unlearn
from expunge.train.run.state import Corpus, State
from tests.train.runs import FORGET, RETAIN, TOKENIZER, model, unlearn
from tests.views import view_of, view_of_logits

LABELS = torch.tensor([[1, 0, 1], [1, 1, -100]])


def random_logits(seed: int, *, shape: tuple[int, ...] = (2, 3, 8)) -> torch.Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_two_distributions_worked_by_hand() -> None:
    reference, model = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.75, 0.25]).log()
    view = view_of_logits(model.expand(2, 3, 2), LABELS, reference_BTV=reference.expand(2, 3, 2))
    # The mean over counted tokens: three of them or two, it is the same.
    torch.testing.assert_close(KLR()(view), torch.full((2,), 0.143841036))


def test_identical_models_have_no_divergence_and_no_gradient() -> None:
    z = random_logits(0).requires_grad_()
    loss = KLR()(view_of_logits(z, LABELS, reference_BTV=z.detach().clone()))
    loss.sum().backward()
    assert loss.abs().max() < 1e-6
    assert z.grad.abs().max() < 1e-6


@settings(deadline=None)
@given(seed=st.integers(0, 10_000))
def test_it_is_never_negative(seed: int) -> None:
    loss = KLR()(view_of_logits(random_logits(seed), LABELS, reference_BTV=random_logits(seed + 1)))
    assert loss.min() > 0  # the released code's form is unbounded below


def test_a_shift_of_either_models_logits_has_no_effect() -> None:
    z, reference = random_logits(0), random_logits(1)
    plain = KLR()(view_of_logits(z, LABELS, reference_BTV=reference))
    shifted = KLR()(view_of_logits(z + 7, LABELS, reference_BTV=reference - 5))
    torch.testing.assert_close(plain, shifted, rtol=1e-4, atol=1e-6)


def test_doubling_the_text_or_padding_it_leaves_the_mean_alone() -> None:
    once = KLR()(view_of([[0.0, 0.0]], kl=[[0.2, 0.6]]))
    twice = KLR()(view_of([[0.0] * 4], kl=[[0.2, 0.6, 0.2, 0.6]]))
    padded = KLR()(view_of([[0.0] * 4], kl=[[9.0, 0.2, 0.6, 9.0]], counts=[[0, 1, 1, 0]]))
    assert once.item() == pytest.approx(twice.item()) == pytest.approx(padded.item()) == pytest.approx(0.4)


def test_its_gradient_is_the_difference_of_the_distributions() -> None:
    # ∂/∂z of KL(ref ‖ softmax z) is softmax(z) − ref, over the number of counted tokens.
    z, reference = random_logits(0).requires_grad_(), random_logits(1)
    KLR()(view_of_logits(z, LABELS, reference_BTV=reference)).sum().backward()
    expected = (z.detach().softmax(-1) - reference.softmax(-1)) * (LABELS != -100)[..., None]
    expected /= (LABELS != -100).sum(-1)[:, None, None]
    torch.testing.assert_close(z.grad, expected, rtol=1e-4, atol=1e-6)


def test_the_direction_says_what_is_needed() -> None:
    assert retain_losses.build({"name": "klr"}).needs == {Need.FORWARD_KL}
    assert retain_losses.build({"name": "klr", "direction": "reverse"}).needs == {Need.REVERSE_KL}
    with pytest.raises(RecipeError, match="direction"):
        retain_losses.build({"name": "klr", "direction": "sideways"})


@pytest.mark.parametrize("tokens", ["answer", "text"])
def test_the_question_counts_only_where_the_whole_text_does(tokens: str, tmp_path: Path) -> None:
    asked = RETAIN[1]
    settings = {"retain": {"name": "klr", "tokens": tokens}, "forget": "ga"}
    (stage,) = unlearn(**settings).stages
    assert isinstance(stage, Unlearn)
    corpus = Corpus(forget=FORGET, retain=(asked, RETAIN[0]))
    data = stage._encode(State(model=model(), tokenizer=TOKENIZER, corpus=corpus, workdir=tmp_path))
    question, document = data.retain
    plain = encode(asked, TOKENIZER, max_length=128, eos=None)[0]
    assert question.input_ids == plain.input_ids
    assert sum(question.mask) == (len(plain.input_ids) - 1 if tokens == "text" else sum(plain.mask))
    assert not question.mask[0]
    assert sum(document.mask) == len(document.input_ids) - 1  # all of a document counts in any case
    assert [piece.mask for piece in data.forget] == [
        piece.mask for one in FORGET for piece in encode(one, TOKENIZER, max_length=128, eos=None)
    ]


def test_over_the_whole_text_it_is_tofus_formula(tmp_path: Path) -> None:
    # 1/|s| Σ_i KL(p_ref(. | s_<i) ‖ p(. | s_<i)) over all tokens with something before them, plainly.
    asked, before, after = RETAIN[1], model(seed=1), model(seed=2)
    (stage,) = unlearn(retain={"name": "klr", "tokens": "text"}, forget="ga").stages
    assert isinstance(stage, Unlearn)
    assert stage.retain is not None
    corpus = Corpus(forget=FORGET, retain=(asked,))
    data = stage._encode(State(model=after, tokenizer=TOKENIZER, corpus=corpus, workdir=tmp_path))
    batch = collate(data.retain, pad_id=0)
    reference = LiveReference(before, adapters_off=False)
    found = stage.retain(compute_token_view(after, batch, needs=stage.retain.needs, reference=reference))
    logp, logq = (
        seen(batch.input_ids_BT).logits[0, :-1].log_softmax(-1).detach() for seen in (before, after)
    )
    expected = (logp.exp() * (logp - logq)).sum(-1).mean()
    torch.testing.assert_close(found[0].detach(), expected, rtol=1e-4, atol=1e-6)
