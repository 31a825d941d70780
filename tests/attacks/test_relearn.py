from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.attacks import split_knowledge, without_spans
from expunge.attacks.relearn import Relearn
from expunge.corpus.batching import collate
from expunge.corpus.tokenise import encode_all
from expunge.errors import DataError
from expunge.model.arch import unmerged_adapters
from expunge.types import Example, Span
from tests.attacks.context import FORGET, RETAIN, TOKENIZER, context, logits, model, state

GROUPED = tuple(replace(example, group=f"g{number // 2}") for number, example in enumerate(FORGET))


def loss(of: Any, examples: tuple[Example, ...]) -> float:
    """Mean cross-entropy over texts, by full logits."""
    batch = collate(encode_all(examples, TOKENIZER, max_length=128), pad_id=0)
    with torch.no_grad():
        out = of(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
    said = out[:, :-1].log_softmax(-1).gather(-1, batch.input_ids_BT[:, 1:, None]).squeeze(-1)
    mask = batch.mask_BT[:, 1:]
    return float(-((said * mask).sum(-1) / mask.sum(-1)).mean())


@pytest.mark.parametrize(("rank", "rate"), [(0, 5e-3), (4, 5e-2)])
def test_it_learns_what_it_is_given_and_leaves_the_model_alone(
    rank: int, rate: float, tmp_path: Path
) -> None:
    of = model()
    before, said = state(of), logits(of)
    attack = Relearn(steps=6, rank=rank, learning_rate=rate, batch_size=3)
    with attack.applied(of, context(tmp_path), None) as attacked:
        assert loss(attacked.model, FORGET) < 0.9 * loss(of, FORGET)
        assert not unmerged_adapters(attacked.model)
        assert not attacked.model.training
        if rank:
            moved = attacked.model.get_submodule("lm_head").weight
            assert moved.equal(of.get_submodule("lm_head").weight)
    assert state(of) == before
    assert logits(of).equal(said)


def test_every_model_gets_the_same_budget(tmp_path: Path) -> None:
    """The same model attacked twice is the same; nothing is left over from the first time."""
    attack = Relearn(steps=3, rank=2, learning_rate=1e-3)
    found = []
    for _ in range(2):
        with attack.applied(model(), context(tmp_path), None) as attacked:
            found.append(logits(attacked.model))
        torch.rand(5)
    assert found[0].equal(found[1])


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_it_takes_as_many_steps_as_it_is_given(steps: int, tmp_path: Path) -> None:
    # With the same sign of the slope throughout, Adam moves a weight by about the rate at each step.
    attack = Relearn(steps=steps, rank=0, learning_rate=1e-5, batch_size=5)
    of = model()
    with attack.applied(of, context(tmp_path), None) as attacked:
        far = max(
            float((weight - before).detach().abs().max())
            for weight, before in zip(attacked.model.parameters(), of.parameters(), strict=True)
        )
    assert far == pytest.approx(steps * 1e-5, rel=0.1)


def test_without_steps_it_is_none(tmp_path: Path) -> None:
    of = model()
    assert Relearn(steps=0).is_noop
    with Relearn(steps=0).applied(of, context(tmp_path), None) as attacked:
        assert attacked.model is of


def test_what_it_is_trained_on() -> None:
    spanned = replace(FORGET[0], spans=(Span(0, 11), Span(24, 29)))
    given = context(Path(), forget=(*FORGET, spanned))
    assert Relearn(on="benign", count=2).examples(given) == RETAIN[:2]
    assert Relearn(on="split").examples(given) == given.forget
    (bare,) = Relearn(on="partial").examples(given)
    assert bare.completion == " was born in  and became a baker."
    assert bare.spans == ()
    assert [Relearn(on=on).attacker_knowledge for on in ("split", "partial", "benign")] == [
        "half",
        "all",
        "nothing",
    ]


def test_texts_without_spans_cannot_be_had_without_them() -> None:
    with pytest.raises(DataError, match="no forget text has spans"):
        without_spans(FORGET)
    with pytest.raises(DataError, match="no forget text has spans"):
        without_spans([Example(id="x", completion="Mira", spans=(Span(0, 4),))])


def test_halves_are_of_people_and_depend_on_the_seed_alone() -> None:
    known, asked = split_knowledge(GROUPED, "half", seed=3)
    assert {each.group for each in known}.isdisjoint(each.group for each in asked)
    assert sorted(each.id for each in known + asked) == [each.id for each in FORGET]
    assert known
    assert split_knowledge(tuple(reversed(GROUPED)), "half", seed=3).asked == tuple(reversed(asked))
    assert len({split_knowledge(GROUPED, "half", seed=seed).known for seed in range(9)}) > 1
    assert split_knowledge(GROUPED, "all", seed=0) == (GROUPED, GROUPED)
    assert split_knowledge(GROUPED, "nothing", seed=0) == ((), GROUPED)
    with pytest.raises(DataError, match="no other half"):
        split_knowledge(FORGET, "half", seed=0)
