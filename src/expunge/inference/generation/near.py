"""How likely a model is to say a text up to a few changed tokens: a lower bound by constrained beam search.

Shapes: B beams, V vocabulary, M tokens of the target, U different ones among them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from expunge.inference.backbone import eval_mode
from expunge.inference.generation.sample import PLAIN, TokenSampler
from expunge.model.arch import backbone, output_head
from expunge.model.cache import new_cache


@torch.inference_mode()
def near_mass(
    model: nn.Module,
    prompt: Sequence[int],
    target: Sequence[int],
    *,
    distance: int,
    width: int,
    sampler: TokenSampler = PLAIN,
    eos_ids: Sequence[int] = (),
) -> float:
    """A lower bound of the chance that the next M tokens are within ``distance`` edits of ``target``.

    The probabilities of at most ``width`` continuations are added up, each of them different and within the
    distance: no more than the true chance, whatever was pruned. The target itself is always among them.

    Source: arXiv 2603.24917: decoding-constrained beam search.
    """
    device = next(model.parameters()).device
    target_M = torch.tensor(target, device=device)
    rows_BM = torch.arange(len(target) + 1, device=device)[None]  # edits to each beginning of the target
    logp_B, exact_B = (
        torch.zeros(1, dtype=torch.double, device=device),
        torch.ones(1, dtype=torch.bool, device=device),
    )
    cache, read = new_cache(model), torch.tensor([list(prompt)], device=device)
    with eval_mode(model):
        for at in range(len(target)):
            states = backbone(model)(
                input_ids=read, past_key_values=cache, use_cache=True
            ).last_hidden_state
            logp_BV = sampler(output_head(model)(states[:, -1]).float()).log_softmax(-1).double()
            logp_BV[:, [each for each in eos_ids if each not in target]] = -torch.inf
            scores_BV = logp_B[:, None] + logp_BV + _forbidden(rows_BM, target_M, logp_BV, distance)
            here = exact_B.nonzero()[:, 0]  # the beam that is the target so far is never pruned
            kept = scores_BV.flatten().topk(min(width, scores_BV.numel())).indices
            kept = torch.cat([kept, here * scores_BV.shape[1] + target_M[at]]).unique()
            kept = kept[scores_BV.flatten()[kept].isfinite()]
            if not len(kept):
                return 0.0
            parents, token_B = kept // scores_BV.shape[1], kept % scores_BV.shape[1]
            logp_B, exact_B = scores_BV[parents, token_B], exact_B[parents] & (token_B == target_M[at])
            rows_BM = _edited(rows_BM[parents], token_B[:, None] == target_M)
            cache.batch_select_indices(parents)
            read = token_B[:, None]
    return float(logp_B[rows_BM[:, -1] <= distance].exp().sum())


def _edited(rows_BM: Tensor, same_BM: Tensor) -> Tensor:
    """The rows of Levenshtein's table after one more token, ``same`` as some of the target's or none."""
    substituted = rows_BM[:, :-1] + (~same_BM).long()
    best = torch.cat([rows_BM[:, :1] + 1, torch.minimum(substituted, rows_BM[:, 1:] + 1)], dim=1)
    # Deleting tokens of the target: best[j] = min over i <= j of best[i] + j - i.
    places = torch.arange(best.shape[1], device=best.device)
    return (best - places).cummin(dim=1).values + places


def _forbidden(rows_BM: Tensor, target_M: Tensor, like_BV: Tensor, distance: int) -> Tensor:
    """-inf for tokens after which no continuation is within the distance, else 0. [B, V]."""

    def alive(same_BM: Tensor) -> Tensor:
        return _edited(rows_BM, same_BM).amin(dim=1) <= distance

    other_B = alive(torch.zeros_like(rows_BM[:, 1:], dtype=torch.bool))
    allowed_BV = other_B[:, None].expand_as(like_BV).clone()
    for token in target_M.unique():
        allowed_BV[:, token] = alive((target_M == token).expand(len(rows_BM), -1))
    return torch.zeros_like(like_BV).masked_fill(~allowed_BV, -torch.inf)
