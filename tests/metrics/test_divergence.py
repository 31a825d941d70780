"""JSD by hand and against the formula on whole logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from expunge.corpus.tokenise import encode
from expunge.inference.hidden_states import Head, States
from expunge.inference.observer import Observer
from expunge.metrics.control_relative import (
    NO_WITNESS,
    OTHER_TOKENS,
    OTHER_VOCABULARY,
    ControlStates,
    JensenShannon,
)
from expunge.metrics.probes import Probes
from tests.batches import full_logps
from tests.metrics.fakes import FakeObserver, document, question
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

TOKENIZER = tiny_tokenizer(all_bytes=True)
PROBES = Probes(
    forget=(document("d", "the rain in the town"), question("q", "who is it?", "the men on the hill"))
)


def observer(seed: int, **settings: Any) -> Observer:
    model = tiny("llama", **{"seed": seed, "vocab_size": BYTES_VOCAB, **settings})
    return Observer(model, TOKENIZER, max_length=256)


def values(seer: Observer, control_states: ControlStates, **settings: int) -> list[float | None]:
    found = JensenShannon(**settings).measure_against(seer, PROBES, control_states)
    return [score.value for score in found["forget"]]


class Two(nn.Module):
    """A model of two words whose states are logits."""

    def __init__(self) -> None:
        super().__init__()
        self.lm_head = nn.Linear(2, 2, bias=False)
        self.lm_head.weight.data = torch.eye(2)
        self.config = type("Config", (), {"model_type": "llama", "vocab_size": 2})()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head


def test_by_hand() -> None:
    def states(*rows: tuple[float, float]) -> list[States]:
        return [States(torch.arange(len(rows)), torch.tensor(rows).log())]

    seer = FakeObserver(model=Two())
    seer.states = lambda examples, *, tokens: states((0.9, 0.1), (0.5, 0.5))  # type: ignore[attr-defined]
    control_states = ControlStates(states((0.5, 0.5), (0.5, 0.5)), Head.of(seer.model))
    probes = Probes(forget=(document("d", "a b"),))
    (score,) = JensenShannon().measure_against(cast("Observer", seer), probes, control_states)["forget"]
    assert score.value == pytest.approx(0.101749 / 2, abs=1e-6)  # KGA's code comes to 0.117973 / 2


def test_it_is_the_formula_on_whole_logits_and_survives_a_file(tmp_path: Path) -> None:
    own, control = observer(0), observer(1)
    kept = JensenShannon().control_states(control, PROBES)
    kept.save(tmp_path / "folder" / "control_states.safetensors")
    expected = []
    for example in PROBES.forget:
        (piece,) = encode(example, TOKENIZER, max_length=256)
        p, q = (full_logps(seer.model, piece).exp() for seer in (own, control))
        m = (p + q) / 2
        jsd = ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)) / 2
        expected.append(jsd.mean().item())
    read = ControlStates.read(tmp_path / "folder" / "control_states.safetensors")
    assert values(own, read) == pytest.approx(expected, abs=1e-6)
    assert values(own, kept) == values(own, read)
    assert min(expected) > 1e-3


def test_of_itself_it_is_nought_and_it_is_the_same_both_ways() -> None:
    one, other = observer(0), observer(1)
    of_one, of_other = (JensenShannon().control_states(seer, PROBES) for seer in (one, other))
    assert values(one, of_one) == pytest.approx([0.0, 0.0], abs=1e-7)
    assert values(one, of_other) == pytest.approx(values(other, of_one), abs=1e-7)  # type: ignore[arg-type]


def test_only_the_first_tokens_count() -> None:
    one, other = observer(0), observer(1)
    whole, first = (
        JensenShannon().control_states(other, PROBES),
        JensenShannon(tokens=1).control_states(other, PROBES),
    )
    assert [len(states.token_n) for states in first.states] == [1, 1]
    assert values(one, first, tokens=1) != values(one, whole)


def test_what_cannot_be_compared_says_why() -> None:
    seer, other = observer(0), observer(1)
    wider = JensenShannon().control_states(observer(1, vocab_size=BYTES_VOCAB + 1), PROBES)
    (score,) = JensenShannon().measure_against(seer, PROBES, wider)["forget"]
    assert score.unscored == OTHER_VOCABULARY
    kept = JensenShannon().control_states(other, PROBES)
    kept.states[0] = kept.states[0]._replace(token_n=kept.states[0].token_n + 1)
    first, second = JensenShannon().measure_against(seer, PROBES, kept)["forget"]
    assert first.unscored == OTHER_TOKENS
    assert second.value is not None
    (score,) = JensenShannon().measure(seer, PROBES)["forget"]
    assert score.unscored == NO_WITNESS
    (score,) = JensenShannon().measure_against(seer, Probes(forget=()), kept)["forget"]
    assert score.unscored == "the forget split is empty"
