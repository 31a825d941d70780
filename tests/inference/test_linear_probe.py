from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from expunge.corpus.tokenise import Encoded
from expunge.inference.linear_probe import cross_validated, fit, states_at
from tests.batches import encoded
from tests.tiny import LAYERS, tiny

LENGTHS = (9, 5, 14, 3, 11)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("arch", ["llama", "gpt2", "gpt_neox"])
def test_states_are_those_of_the_texts_read_alone_before_the_final_norm(arch: str) -> None:
    model = tiny(arch)
    texts: list[Encoded] = encoded(LENGTHS)
    places = [4, 0, 13, 2, 7]
    found = states_at(model, texts, places, batch_size=2)
    assert found.shape == (LAYERS + 1, len(texts), 32)
    for row, (text, place) in enumerate(zip(texts, places, strict=True)):
        with torch.no_grad():
            alone = model(input_ids=torch.tensor([text.input_ids]), output_hidden_states=True)
        expected = torch.stack([states[0, place] for states in alone.hidden_states])
        torch.testing.assert_close(found[:-1, row], expected[:-1], rtol=1e-4, atol=1e-5)
        norm = model.base_model.norm if arch == "llama" else None
        norm = norm or getattr(model.base_model, "ln_f", None) or model.base_model.final_layer_norm
        torch.testing.assert_close(norm(found[-1, row]), expected[-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("items", "width"), [(40, 6), (8, 30)])
def test_the_probe_is_ridge_regression_to_indicators(items: int, width: int) -> None:
    """Against the augmented least-squares problem: rows of √penalty below, solved by numpy."""
    states, labels = gaussian(items, width), torch.arange(items) % 3
    probe = fit(states, labels, penalty=2.5)
    x = states.double().numpy()
    x = (x - x.mean(0)) / x.std(0)
    y = np.eye(3)[labels.numpy()]
    stacked = np.vstack([x, np.sqrt(2.5) * np.eye(width)])
    weight = np.linalg.lstsq(stacked, np.vstack([y - y.mean(0), np.zeros((width, 3))]), rcond=None)[0]
    np.testing.assert_allclose(probe.weight_HC.numpy(), weight, rtol=1e-7, atol=1e-9)
    other = gaussian(5, width, seed=1)
    z = (other.double().numpy() - states.double().numpy().mean(0)) / states.double().numpy().std(0)
    assert probe(other).tolist() == (z @ weight + y.mean(0)).argmax(1).tolist()


def test_what_never_varies_has_no_say() -> None:
    states = torch.cat([gaussian(6, 2), torch.full((6, 1), 7.0)], dim=1)
    probe = fit(states, torch.tensor([0, 1, 0, 1, 0, 1]))
    assert probe.weight_HC[2].tolist() == [0, 0]


def test_labels_come_back_as_they_were_given() -> None:
    labels = torch.tensor([40, 7, 40, 7])
    probe = fit(torch.tensor([[1.0], [-1.0], [2.0], [-2.0]]), labels)
    assert probe(torch.tensor([[3.0], [-3.0]])).tolist() == [40, 7]


def test_an_item_is_never_judged_by_a_probe_that_saw_its_fold() -> None:
    """Every fold has a class of its own: seen, it would be told; unseen, it cannot be."""
    folds = torch.arange(3).repeat_interleave(4)
    states = torch.eye(3)[folds] + 0.01 * gaussian(12, 3)
    assert (fit(states, folds)(states) == folds).all()
    assert not cross_validated(states, folds, folds).any()
    mixed = torch.arange(12) % 3
    assert cross_validated(torch.eye(3)[mixed], mixed, folds).all()
