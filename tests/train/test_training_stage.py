"""What training stages share: texts become sequences that the model can read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from expunge.errors import ModelError
from expunge.train.methods.training_stage import encode_examples
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
