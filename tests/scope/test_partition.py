from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from expunge.scope.selection import agreement, lowest


def gradients(read: nn.Linear, write: nn.Linear, x: Tensor, row: int) -> dict[str, Tensor]:
    value = write(read(x))[row]
    grads = torch.autograd.grad(value, (read.weight, write.weight))
    return {"read": grads[0], "write": grads[1]}


def test_a_hidden_units_cosine_is_the_sign_its_two_outputs_share() -> None:
    """z = W(Ux): by hand, every row of U agrees or disagrees fully, and rows of W never meet."""
    torch.manual_seed(0)
    read, write, x = nn.Linear(4, 6, bias=False), nn.Linear(6, 5, bias=False), torch.randn(4)
    pair = gradients(read, write, x, 1), gradients(read, write, x, 3)
    found = agreement(*pair)
    signs = (write.weight[1] * write.weight[3]).sign().double()
    torch.testing.assert_close(found["read"], signs.detach())
    assert found["write"].tolist() == [torch.inf, 0, torch.inf, 0, torch.inf]
    opposed = int((signs < 0).sum())
    masks = lowest(found, opposed)
    assert masks.keys() == {"read"}
    assert torch.equal(masks["read"], signs < 0)
    every = lowest(found, 1000)
    assert sum(int(mask.sum()) for mask in every.values()) == 6 + 2  # never one without a gradient


def test_a_gradient_and_its_opposite_disagree_fully() -> None:
    grad = {"w": torch.randn(3, 4), "b": torch.randn(4), "experts": torch.randn(2, 3, 4)}
    found = agreement(grad, {name: -value for name, value in grad.items()})
    assert {name: value.shape for name, value in found.items()} == {"w": (3,), "b": (), "experts": (2, 3)}
    for value in found.values():
        torch.testing.assert_close(value, torch.full_like(value, -1.0))


@pytest.mark.parametrize(("along", "shape"), [("input", 3), ("output", 4)])
def test_vectors_run_over_inputs_or_outputs_however_a_matrix_is_stored(along: str, shape: int) -> None:
    one, other = torch.randn(3, 4), torch.randn(3, 4)
    plain = agreement({"w": one}, {"w": other}, along=along)["w"]  # type: ignore[arg-type]
    assert plain.shape == (shape,)
    turned = agreement(
        {"w": one.t()},
        {"w": other.t()},
        along=along,  # type: ignore[arg-type]
        transposed=frozenset({"w"}),
    )["w"]
    torch.testing.assert_close(turned, plain)
