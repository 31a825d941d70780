"""Linear probes: what can be read from hidden states by a linear map.

Shapes: N items, H hidden units, C classes, L blocks; so L + 1 states of a token: the input of each block
and the output of the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from expunge.corpus.batching import collate
from expunge.corpus.tokenise import Encoded
from expunge.inference.backbone import eval_mode
from expunge.model.arch import backbone, blocks
from expunge.model.intervention import Site, capturing

PENALTY = 1.0
"""Ridge penalty, for squared errors summed over items and standardised features."""


@torch.no_grad()
def states_at(
    model: nn.Module, texts: Sequence[Encoded], places: Sequence[int], *, batch_size: int = 16
) -> Tensor:
    """The state of one token per text before every block and after the last. [L + 1, N, H], float32.

    The final norm is not applied: these are states of the residual stream.
    """
    layers = len(blocks(model))
    sites = [Site("residual_in", block) for block in range(layers)] + [Site("residual_out", layers - 1)]
    device = next(model.parameters()).device
    order = sorted(range(len(texts)), key=lambda item: len(texts[item].input_ids))
    states: list[Tensor] = []
    with eval_mode(model), capturing(model, sites) as held:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = collate([texts[row] for row in rows], pad_id=0).to(device)
            backbone(model)(
                input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT, use_cache=False
            )
            at = torch.tensor([places[row] for row in rows], device=device)
            every = torch.arange(len(rows), device=device)
            states.append(torch.stack([held[site][every, at].float().cpu() for site in sites]))
    back = torch.tensor(order).argsort()
    return torch.cat(states, dim=1)[:, back]


class LinearProbe(NamedTuple):
    """A linear map from standardised states to one number per class; the largest is the answer."""

    mean_H: Tensor
    scale_H: Tensor
    weight_HC: Tensor
    bias_C: Tensor
    classes: Tensor

    def __call__(self, states_NH: Tensor) -> Tensor:
        """The class of each item, as the labels it was fitted on name them. [N]."""
        scores_NC = (states_NH.double() - self.mean_H) / self.scale_H @ self.weight_HC + self.bias_C
        return self.classes[scores_NC.argmax(-1)]


def fit(states_NH: Tensor, labels_N: Tensor, *, penalty: float = PENALTY) -> LinearProbe:
    """Ridge regression to the indicator of each class, with an intercept that is not penalised.

    The squared error is summed over the items, and ``penalty`` times the squared weights added to it;
    one solution, whatever the seed. It is solved in whichever of N and H is smaller.
    """
    states = states_NH.double()
    mean_H = states.mean(0)
    scale_H = states.std(0, correction=0)
    scale_H = torch.where(scale_H > 0, scale_H, 1.0)  # constant features carry no information
    x_NH = (states - mean_H) / scale_H
    classes, place_N = labels_N.unique(return_inverse=True)
    target_NC = torch.nn.functional.one_hot(place_N, len(classes)).double()
    bias_C = target_NC.mean(0)
    y_NC = target_NC - bias_C
    items, width = x_NH.shape
    if items < width:
        inner_NN = x_NH @ x_NH.T + penalty * torch.eye(items, dtype=x_NH.dtype)
        weight_HC = x_NH.T @ torch.linalg.solve(inner_NN, y_NC)
    else:
        outer_HH = x_NH.T @ x_NH + penalty * torch.eye(width, dtype=x_NH.dtype)
        weight_HC = torch.linalg.solve(outer_HH, x_NH.T @ y_NC)
    return LinearProbe(mean_H, scale_H, weight_HC, bias_C, classes)


def cross_validated(
    states_NH: Tensor, labels_N: Tensor, folds_N: Tensor, *, penalty: float = PENALTY
) -> Tensor:
    """Whether each item is classified correctly by a probe fitted on the other folds. Bool, [N]."""
    right_N = torch.zeros(len(labels_N), dtype=torch.bool)
    for fold in folds_N.unique():
        here_N = folds_N == fold
        probe = fit(states_NH[~here_N], labels_N[~here_N], penalty=penalty)
        right_N[here_N] = probe(states_NH[here_N]) == labels_N[here_N]
    return right_N
