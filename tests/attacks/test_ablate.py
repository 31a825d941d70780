from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.attacks.ablate import DirectionalAblation, outputs
from expunge.attacks.in_context import InContext
from expunge.corpus.tokenise import encode_all
from expunge.errors import DataError
from expunge.model.arch import blocks
from expunge.model.intervention import Site, intervening, plus, without
from tests.attacks.context import FORGET, RETAIN, TOKENIZER, context, logits, model, state
from tests.tiny import HIDDEN

LAYER = 0
OUT = Site("residual_out", LAYER)
UNIT = nn.functional.normalize(torch.arange(HIDDEN) - 11.3, dim=0)
TEXTS = encode_all(FORGET, TOKENIZER, max_length=128)


@contextmanager
def added(of: nn.Module, size: float) -> Iterator[None]:
    """What RMU does at best: a direction added to hidden states, everything else as it was."""
    with intervening(of, {OUT: without(UNIT)}), intervening(of, {OUT: plus(size * UNIT)}):
        yield


def test_states_are_those_of_every_text_alone() -> None:
    of = model()
    found = outputs(of, TEXTS, (0, 1), pad_id=0)
    expected: dict[int, list[Tensor]] = {0: [], 1: []}
    for text in sorted(TEXTS, key=lambda text: -len(text.input_ids)):
        with torch.no_grad():
            states = of(input_ids=torch.tensor([text.input_ids]), output_hidden_states=True).hidden_states
            last = blocks(of)  # the last entry is normed already, so the block itself is not compared
            assert len(last) == 2
        expected[0].append(states[1][0, 1:])
    torch.testing.assert_close(found[0], torch.cat(expected[0]), atol=1e-5, rtol=1e-4)
    assert found[1].shape == found[0].shape


def test_what_was_added_along_a_direction_is_undone(tmp_path: Path) -> None:
    # The target has nothing along the direction; the unlearned model is the target with it added.
    target = model()
    with intervening(target, {OUT: without(UNIT)}):
        clean = logits(target)
        attack = DirectionalAblation(layers=(LAYER,), outliers=1e6)
        own = attack._means(target, FORGET, context(tmp_path))[LAYER]
    unlearned = model()
    with added(unlearned, 3.0):
        hurt = logits(unlearned)
        direction = attack._means(unlearned, FORGET, context(tmp_path))[LAYER] - own
        torch.testing.assert_close(direction, 3.0 * UNIT, atol=1e-5, rtol=1e-4)
        with intervening(unlearned, {OUT: without(direction)}):
            torch.testing.assert_close(logits(unlearned), clean, atol=1e-5, rtol=1e-4)
    assert (hurt - clean).abs().max() > 1e-2


def test_against_itself_there_is_nothing_to_take_out(tmp_path: Path) -> None:
    of = model()
    before, said = state(of), logits(of)
    known = context(tmp_path, target=model)
    with DirectionalAblation().applied(of, known, None) as attacked:
        assert attacked.facts["lengths"] == {0: 0.0, 1: 0.0}
        assert logits(attacked.model).equal(said)
    assert state(of) == before


@pytest.mark.parametrize("reference", ["target", "retain"])
def test_the_model_is_as_it_was_after_it(reference: str, tmp_path: Path) -> None:
    of = model()
    before, said = state(of), logits(of)
    with DirectionalAblation(reference=reference).applied(of, context(tmp_path), None) as attacked:
        assert not logits(attacked.model).allclose(said, atol=1e-4)
    assert state(of) == before
    assert logits(of).equal(said)


def test_without_blocks_it_is_none(tmp_path: Path) -> None:
    of = model()
    attack = DirectionalAblation(layers=())
    assert attack.is_noop
    said = logits(of)
    with attack.applied(of, context(tmp_path), None) as attacked:
        assert logits(attacked.model).equal(said)


def test_tokens_far_from_the_middle_are_left_out_of_the_mean() -> None:
    states = torch.zeros(101, 4)
    states[0] = 1000.0
    assert DirectionalAblation()._mean(states).abs().max() == 0
    assert DirectionalAblation(outliers=1e6)._mean(states).abs().max() > 9


def test_solved_questions_stand_before_each_question(tmp_path: Path) -> None:
    known: Any = context(tmp_path, forget=())
    with InContext(of="retain", count=1).applied(model(), known, None) as attacked:
        asked = attacked.rewrite_prompt(FORGET[1])
        assert attacked.rewrite_prompt(FORGET[0]) == FORGET[0]
    assert asked.prompt == RETAIN[1].prompt + " a mason\n\n" + FORGET[1].prompt
    assert asked.completion == FORGET[1].completion
    with InContext(count=0).applied(model(), known, None) as attacked:
        assert attacked.rewrite_prompt(FORGET[1]) == FORGET[1]
    with (
        pytest.raises(DataError, match="no question with its answer"),
        InContext().applied(model(), known, None),
    ):
        pass
