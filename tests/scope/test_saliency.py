from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.errors import RecipeError, TrainingError
from expunge.model.arch import sublayer_of
from expunge.scope import scopes
from expunge.scope.saliency import SalientModules
from expunge.scope.selection import Selection
from tests.tiny import tiny

NORMS = range(1, 11)


def gradient_of_norm(norm: float, shape: tuple[int, ...], *, seed: int = 0) -> Tensor:
    direction = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return norm * direction / direction.norm()


def ten_matrices() -> dict[str, Tensor]:
    """Ten matrices of ten sizes whose gradients have the norms 1 to 10."""
    return {f"m{n}": gradient_of_norm(n, (n + 1, 3), seed=n) for n in NORMS}


def chosen(gradients: Mapping[str, Tensor], model: Any = None, **settings: Any) -> Selection:
    return SalientModules(**settings).select(model or nn.Linear(1, 1), lambda: gradients)


@pytest.mark.parametrize(
    ("percentile", "names"),
    [(90, {"m10"}), (0, {f"m{n}" for n in NORMS}), (100, {"m10"}), (50, {f"m{n}" for n in range(6, 11)})],
)
def test_a_percentile_of_ten_modules(percentile: float, names: set[str]) -> None:
    # np.percentile(1..10, 90) = 9.1
    selection = chosen(ten_matrices(), percentile=percentile)
    assert selection.rows == dict.fromkeys(names)


def test_at_a_hundred_ties_are_all_chosen() -> None:
    gradients = ten_matrices() | {"m9": gradient_of_norm(10, (4, 3)), "m10": gradient_of_norm(10, (4, 3))}
    assert chosen(gradients, percentile=100).rows.keys() == {"m9", "m10"}


def test_vectors_do_not_compete_with_matrices() -> None:
    gradients = ten_matrices() | {"bias": torch.full((3,), 100.0)}
    assert chosen(gradients, percentile=90).rows.keys() == {"m10"}
    assert "bias" not in chosen(gradients, percentile=0).rows


def test_rows_are_ranked_together_over_all_tensors() -> None:
    # Twenty rows of norm 1..20 in two tensors of different width: P90 = 18.1.
    def stacked(norms: list[int], width: int) -> Tensor:
        return torch.stack([gradient_of_norm(n, (width,), seed=n) for n in norms])

    odd, even = list(range(1, 20, 2)), list(range(2, 21, 2))
    gradients = {"odd": stacked(odd, 3), "even": stacked(even, 7), "vector": torch.full((9,), 50.0)}
    selection = chosen(gradients, percentile=90, granularity="row")
    assert {name: mask.nonzero().flatten().tolist() for name, mask in selection.rows.items()} == {
        "odd": [odd.index(19)],
        "even": [even.index(20)],
    }
    top = chosen(gradients, percentile=96, granularity="row").rows
    assert top.keys() == {"even"}  # a tensor without a row left is not in the selection


def test_sublayers_pool_their_weights_and_biases_and_leave_out_the_rest() -> None:
    model = tiny("phi")  # its linears have biases
    gradients = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    # Attention of block 0 wins only when its bias counts beside its matrices: 3² + 4² = 5² > 4.5².
    attention = "model.layers.0.self_attn"
    gradients[f"{attention}.q_proj.weight"][0, 0] = 3.0
    gradients[f"{attention}.q_proj.bias"][0] = 4.0
    gradients["model.layers.1.mlp.fc1.weight"][0, 0] = 4.5
    gradients["model.embed_tokens.weight"][:] = 100.0
    gradients["model.layers.1.input_layernorm.weight"][:] = 100.0
    selection = chosen(gradients, model, percentile=100, granularity="sublayer")
    expected = {name for name, _ in model.named_parameters() if sublayer_of(name, model) == attention}
    assert selection.rows == dict.fromkeys(expected)
    assert f"{attention}.q_proj.bias" in expected


def test_every_sublayer_at_percentile_nought() -> None:
    model = tiny("llama")
    gradients = {name: torch.ones_like(weight) for name, weight in model.named_parameters()}
    selection = chosen(gradients, model, percentile=0, granularity="sublayer")
    assert selection.rows.keys() == {name for name in gradients if sublayer_of(name, model)}


def test_the_gradient_is_asked_for_once() -> None:
    asked = []
    for granularity in ("tensor", "row"):
        SalientModules(granularity=granularity).select(
            nn.Linear(1, 1), lambda: (asked.append(1), ten_matrices())[1]
        )
    assert len(asked) == 2


def test_a_gradient_that_is_not_a_number_is_refused() -> None:
    gradients = ten_matrices()
    gradients["m3"][0, 0] = float("nan")
    for granularity in ("tensor", "row"):
        with pytest.raises(TrainingError, match="m3"):
            chosen(gradients, granularity=granularity)


def test_its_settings() -> None:
    assert scopes.build({"name": "saliency"}) == SalientModules(percentile=90, granularity="tensor")
    for wrong in ({"percentile": 101}, {"percentile": -1}, {"granularity": "neuron"}):
        with pytest.raises(RecipeError, match=next(iter(wrong))):
            scopes.build({"name": "saliency", **wrong})
