"""What a model finds of the tokens that might fill a blank: against the model's own logits."""

from __future__ import annotations

import pytest
import torch

from expunge.corpus.pairs import Blank, blanked, read_pairs
from expunge.errors import DataError, ModelError
from expunge.inference.batches import Batches
from expunge.inference.masked_lm import fill_mask_logits, fill_mask_logprobs
from expunge.model.arch import is_masked, linear_layers
from expunge.types import Example
from tests.masked import FAMILIES, tiny_masked, word_tokenizer
from tests.tiny import tiny, tiny_tokenizer

TOKENIZER = word_tokenizer()
SENTENCES = (
    ("the nurse said that she ran .", "the nurse said that he ran ."),
    ("he sang .", "she sang ."),
    ("the poet was kind that she said it", "the poet was kind that she said he"),
)


def blanks() -> list[Blank]:
    found = [blanked(texts, TOKENIZER) for texts in SENTENCES]
    assert None not in found
    return [each for each in found if each is not None]


def test_a_blank_is_where_the_sentences_differ() -> None:
    blank = blanks()[0]
    words = TOKENIZER.convert_ids_to_tokens(list(blank.ids))
    assert words == "[CLS] the nurse said that [MASK] ran . [SEP]".split()
    assert TOKENIZER.convert_ids_to_tokens(list(blank.fills)) == ["she", "he"]
    assert blank.ids[blank.place] == TOKENIZER.mask_token_id


@pytest.mark.parametrize(
    "texts",
    [
        ("the nurse ran", "the nurse that ran"),  # longer
        ("she said it", "he said that"),  # two places
        ("she said it", "she said it"),  # none
    ],
)
def test_sentences_that_differ_otherwise_have_none(texts: tuple[str, str]) -> None:
    assert blanked(texts, TOKENIZER) is None
    pair = Example(id="x", prompt=texts[0][:4], completion=texts[0][4:], wrong=(texts[1][4:],))
    with pytest.raises(DataError, match="'x'"):
        read_pairs([pair], TOKENIZER, masked=True)


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    with pytest.raises(DataError, match="no mask token"):
        blanked(("he", "she"), tiny_tokenizer())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_batch_says_what_each_text_alone_does(family: str) -> None:
    model = tiny_masked(family)
    found = fill_mask_logits(model, blanks())
    for row, blank in enumerate(blanks()):
        alone = model(torch.tensor([blank.ids])).logits[0, blank.place, list(blank.fills)]
        torch.testing.assert_close(found[row], alone, rtol=1e-4, atol=1e-6)
    by_one = fill_mask_logprobs(model, blanks(), batches=Batches(1))
    torch.testing.assert_close(torch.tensor(by_one), found.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_linear_layers_are_those_of_the_blocks(family: str) -> None:
    model = tiny_masked(family)
    outside = [name for name, each in model.named_modules() if isinstance(each, torch.nn.Linear)]
    found = linear_layers(model)
    per_block, blocks = 6, 1 if family == "albert" else 2
    assert len(found) == per_block * blocks
    assert not any("predictions" in name or "lm_head" in name or "vocab" in name for name in found)
    assert set(found) < set(outside)


def test_what_is_masked_and_what_is_not() -> None:
    assert all(is_masked(tiny_masked(family)) for family in FAMILIES)
    assert not is_masked(tiny("llama"))


def test_a_text_beyond_the_positions_is_refused() -> None:
    model = tiny_masked()
    long = Blank(tuple([2] * 30), 3, (5, 6))
    with pytest.raises(ModelError, match="30 tokens"):
        fill_mask_logits(model, [long])
