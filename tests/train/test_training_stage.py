"""What training stages share: texts become sequences that the model can read."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from expunge.corpus.tokenise import Encoded
from expunge.errors import ModelError
from expunge.train.methods.training_stage import encode_examples, warn_of_unlearnt_end
from expunge.train.run.state import Corpus, State
from expunge.types import Example
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

DOCUMENT = Example(id="a", prompt="", completion="the rain in the north " * 8)


def state(folder: Path, positions: int) -> State:
    model = tiny("gpt2", vocab_size=BYTES_VOCAB, n_positions=positions)
    tokenizer = tiny_tokenizer(all_bytes=True)
    return State(model=model, tokenizer=tokenizer, corpus=Corpus(forget=(DOCUMENT,)), workdir=folder)


def test_a_long_document_becomes_several_sequences(tmp_path: Path) -> None:
    pieces = encode_examples([DOCUMENT], state(tmp_path, 16), max_length=16, eos=None)
    assert len(pieces) > 1
    assert max(len(piece.input_ids) for piece in pieces) == 16


def test_more_tokens_than_the_model_has_positions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="16 tokens"):
        encode_examples([DOCUMENT], state(tmp_path, 12), max_length=16, eos=None)


class _EndsWith(nn.Module):
    """Gives the end token, number 2 of three, one log-probability everywhere."""

    def __init__(self, logp: float) -> None:
        super().__init__()
        self.logp = nn.Parameter(torch.tensor(logp, dtype=torch.float64))

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        rest = torch.log((1 - self.logp.exp()) / 2)
        return SimpleNamespace(logits=torch.stack([rest, rest, self.logp]).expand(*input_ids.shape, 3))


def test_an_end_token_that_was_never_learnt_is_told() -> None:
    answer = Encoded([0, 1, 2], [False, True, True], "a")
    endless = Encoded([0, 1, 1], [False, True, True], "b")
    said: list[str] = []
    warn_of_unlearnt_end(said.append, _EndsWith(math.log(1e-3)), [answer], 2)
    warn_of_unlearnt_end(said.append, _EndsWith(-20.0), [endless], 2)
    warn_of_unlearnt_end(said.append, _EndsWith(-20.0), [answer], None)
    assert said == []
    warn_of_unlearnt_end(said.append, _EndsWith(-20.0), [endless, answer], 2)
    assert len(said) == 1
    assert "with probability 2e-09" in said[0]
    assert "append_eos=false" in said[0]
