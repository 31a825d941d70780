from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from expunge.model.arch import linear_layers
from expunge.model.create import ScratchModel
from expunge.model.load import check_vocabulary, hash_model
from tests.tiny import tiny_tokenizer

SMALL = ScratchModel(hidden=32, layers=1, heads=2, context=64)
TOKENIZER = tiny_tokenizer()


def test_it_fits_its_tokenizer_and_its_sizes() -> None:
    model = SMALL.create(TOKENIZER, seed=0)
    check_vocabulary(model, TOKENIZER)
    assert model.config.vocab_size == len(TOKENIZER)
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (32, 1)
    assert model.config.eos_token_id == TOKENIZER.eos_token_id
    assert not model.training
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    with torch.no_grad():
        assert model(torch.tensor([[4, 5, 6]])).logits.shape == (1, 3, len(TOKENIZER))


def test_its_weights_are_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = hash_model(SMALL.create(TOKENIZER, seed=0))
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(2)
    assert hash_model(SMALL.create(TOKENIZER, seed=0)) == one
    assert hash_model(SMALL.create(TOKENIZER, seed=1)) != one


@pytest.mark.parametrize("sizes", [{"hidden": 100, "heads": 3}, {"layers": 0}, {"hiden": 3}])
def test_sizes_that_cannot_be_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        ScratchModel(**sizes)


def test_heavier_tails_at_the_same_spread() -> None:
    wide = ScratchModel(hidden=128, layers=1, heads=2, context=64, tails="laplace")
    state = torch.get_rng_state()
    model = wide.create(TOKENIZER, seed=0)
    assert torch.get_rng_state().equal(state)
    weights = torch.cat([layer.weight.flatten() for layer in linear_layers(model).values()])
    assert abs(weights.std().item() / 0.02 - 1) < 0.02
    kurtosis = (weights / weights.std()).pow(4).mean().item()
    assert abs(kurtosis - 6) < 0.5  # a normal distribution has 3
    embedding = model.get_input_embeddings().weight
    assert abs((embedding / embedding.std()).pow(4).mean().item() - 3) < 0.3
