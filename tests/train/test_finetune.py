from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.corpus.tokenise import Encoded
from expunge.errors import DataError
from expunge.inference.observer import Observer
from expunge.train.methods.finetune import EpochSampler, Finetune, TextDataset
from expunge.train.run.state import Corpus, State
from tests.batches import full_logps, own
from tests.train.runs import CORPUS, FORGET, RETAIN, TOKENIZER, model


def ran(folder: Path, *, corpus: Corpus = CORPUS, **settings: Any) -> State:
    values = {"learning_rate": 3e-3, "epochs": 4, "batch_size": 2, "max_length": 128, **settings}
    state = State(model=model(), tokenizer=TOKENIZER, corpus=corpus, workdir=folder)
    return Finetune(**values).run(state)


def gain(state: State, examples: Any) -> float:
    """How much likelier the examples became, per token."""
    seers = [Observer(one, TOKENIZER, max_length=128) for one in (model(), state.model)]
    before, after = (torch.cat(seer.token_logps(list(examples))).mean().item() for seer in seers)
    return after - before


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(("on", "learnt"), [("forget", FORGET), ("retain", RETAIN)])
def test_it_learns_the_set_it_is_told_to(on: str, learnt: Any, pack: bool, tmp_path: Path) -> None:
    state = ran(tmp_path, on=on, pack=pack, max_length=64 if pack else 128)
    assert gain(state, learnt) > 0.3
    losses = [entry["loss"] for entry in state.facts[0]["history"]]
    assert len(losses) == 4
    assert losses[-1] < losses[0]


def test_both_sets_are_trained_on_in_so_many_steps(tmp_path: Path) -> None:
    state = ran(tmp_path, on="both", epochs=2)
    assert state.facts[0]["steps"] == 2 * 5  # nine sequences in pairs
    assert gain(state, FORGET) > 0
    assert gain(state, RETAIN) > 0


def test_its_first_loss_is_the_mean_cross_entropy_of_the_examples(tmp_path: Path) -> None:
    state = ran(tmp_path, epochs=1, batch_size=4, accumulation=2)
    sequences = Finetune(max_length=128)._encode(
        State(model=None, tokenizer=TOKENIZER, corpus=CORPUS, workdir=tmp_path)
    )
    losses = [-own(full_logps(model(), one), one).mean().item() for one in sequences]
    (entry,) = state.facts[0]["history"]
    assert entry["loss_text"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_every_weight_may_change_even_one_that_was_frozen(tmp_path: Path) -> None:
    state = State(model=model().requires_grad_(False), tokenizer=TOKENIZER, corpus=CORPUS, workdir=tmp_path)
    before = {name: weight.clone() for name, weight in state.model.named_parameters()}
    after = Finetune(learning_rate=1e-3, epochs=1, max_length=128).run(state).model
    assert not any(weight.equal(before[name]) for name, weight in after.named_parameters())


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(DataError, match="nothing to train on"):
        Finetune(on="retain").check(Corpus(forget=FORGET))


def texts(**settings: Any) -> TextDataset:
    encoded = [
        Encoded([1, *range(10 * i, 10 * i + n)], [False] + [True] * n, str(i))
        for i, n in enumerate((5, 7, 3, 9))
    ]
    return TextDataset(encoded, TOKENIZER, Finetune(**settings), seed=3)


def test_epochs_are_shuffled_as_functions_of_seed_and_epoch() -> None:
    sampler, again = EpochSampler(texts()), EpochSampler(texts())
    orders = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(orders[-1]) == [0, 1, 2, 3] == list(range(len(sampler)))
    assert len({tuple(order) for order in orders}) > 1
    again.set_epoch(3)
    assert list(again) == orders[3]


def test_packing_fills_every_sequence_anew_each_epoch() -> None:
    packed = texts(pack=True, max_length=8)
    epochs = []
    for epoch in range(4):
        packed.set_epoch(epoch)
        epochs.append([packed[i].input_ids for i in range(len(packed))])
        assert all(len(ids) == 8 for ids in epochs[-1][:-1])
    assert len({len(sequences) for sequences in epochs}) == 1
    assert epochs[0] != epochs[1]
    packed.set_epoch(0)
    assert [packed[i].input_ids for i in range(len(packed))] == epochs[0]
