from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from expunge.attacks.prune import SetDifference, _top
from expunge.errors import DataError
from expunge.inference.observer import Observer
from expunge.model.arch import linear_layers
from tests.attacks.context import FORGET, RETAIN, TOKENIZER, context, logits, model, state

SIZE = sum(layer.weight.numel() for layer in linear_layers(model()).values())


def test_the_largest_are_found() -> None:
    scores = torch.tensor([[3.0, 0.0], [1.0, 2.0]])
    assert _top(scores, 0.5).tolist() == [[True, False], [False, True]]
    assert _top(scores, 1.0).tolist() == [[True, False], [True, True]]
    assert not _top(scores, 0.0).any()


def test_weights_are_zero_inside_and_back_after(tmp_path: Path) -> None:
    of = model()
    before, said = state(of), logits(of)
    with SetDifference(share=0.02, spared=0.0, tokens=4).applied(of, context(tmp_path), None) as attacked:
        zero = sum(int((layer.weight == 0).sum()) for layer in linear_layers(attacked.model).values())
        assert zero == attacked.facts["zeroed"] == pytest.approx(0.02 * SIZE, rel=0.05)
        assert not logits(of).allclose(said)
    assert state(of) == before
    assert logits(of).equal(said)
    assert all(weight.grad is None for weight in of.parameters())


def test_what_both_need_is_spared(tmp_path: Path) -> None:
    """Where what is kept is what the model says of the forget set, nothing is left to be taken."""
    of = model()
    asked = [example for example in FORGET if not example.is_document]
    answers = Observer(of, TOKENIZER, max_length=128).greedy(asked, max_new_tokens=4)
    kept = tuple(
        replace(example, completion=answer)
        for example, answer in zip(asked, answers, strict=True)
        if answer.strip()
    )
    attack = SetDifference(share=0.02, spared=0.02, tokens=4)
    with attack.applied(of, context(tmp_path, retain=kept), None) as attacked:
        assert attacked.facts["zeroed"] == 0
    with attack.applied(of, context(tmp_path, retain=RETAIN), None) as attacked:
        assert attacked.facts["zeroed"] > 0


def test_without_a_share_it_is_none_and_without_questions_it_is_refused(tmp_path: Path) -> None:
    of = model()
    assert SetDifference(share=0).is_noop
    with SetDifference(share=0).applied(of, context(tmp_path), None) as attacked:
        assert attacked.model is of
    documents = context(tmp_path, forget=FORGET[:1])
    with pytest.raises(DataError, match="no question"), SetDifference().applied(of, documents, None):
        pass
