from __future__ import annotations

import pytest
import torch

from expunge.errors import ModelError
from expunge.model.rope import check_lengths, learned_positions
from tests.tiny import ARCHITECTURES, tiny

LEARNED = {"gpt2"}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_only_learned_positions_end(arch: str) -> None:
    assert learned_positions(tiny(arch)) == (256 if arch in LEARNED else None)


def test_as_many_tokens_as_positions_are_read_and_one_more_is_refused() -> None:
    model = tiny("gpt2")
    model(torch.ones(1, 256, dtype=torch.long))
    check_lengths(model, [3, 256])
    with pytest.raises(IndexError):
        model(torch.ones(1, 257, dtype=torch.long))
    with pytest.raises(ModelError, match=r"a text of 257 tokens: .* 256 positions .* max_length=256"):
        check_lengths(model, [257, 3])


def test_computed_positions_never_end() -> None:
    check_lengths(tiny("llama"), [10**6])
    check_lengths(tiny("gpt2"), [])


def test_as_many_words_as_positions_are_no_positions() -> None:
    assert learned_positions(tiny("llama", vocab_size=256)) is None
    assert learned_positions(tiny("gpt2", vocab_size=256)) == 256
