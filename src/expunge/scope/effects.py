"""What changing one part of a model does to how it tells an answer from another.

The measure M is the logit difference LD = z[true] − z[false] at the last token of the prompt, scaled so
that the clean run has 1 and the corrupt run 0. It is scaled by sums over all pairs: single pairs that
the model hardly tells apart would blow it up. Shapes: B pairs, T positions, H hidden units, N pairs in all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from expunge.errors import DataError
from expunge.model.arch import backbone, head_logits
from expunge.model.intervention import Change, Site, capturing, intervening
from expunge.scope.contrast import Contrasts
from expunge.scope.parts import Part

States = Mapping[Site, Tensor]
"""What sites hold in a run."""


def difference(model: nn.Module, batch: Contrasts, ids_BT: Tensor) -> Tensor:
    """LD of each pair when the model reads ``ids_BT``. [B]."""
    states_BTH = backbone(model)(
        input_ids=ids_BT, attention_mask=batch.real_BT, use_cache=False
    ).last_hidden_state
    every = torch.arange(len(ids_BT), device=ids_BT.device)
    logits_BV = head_logits(model, states_BTH[every, batch.last_B]).float()
    return logits_BV[every, batch.true_B] - logits_BV[every, batch.false_B]


@torch.no_grad()
def states(model: nn.Module, batch: Contrasts, ids_BT: Tensor, sites: Sequence[Site]) -> States:
    """What the sites hold when the model reads ``ids_BT``."""
    with capturing(model, sites) as held:
        difference(model, batch, ids_BT)
    return dict(held)


@torch.no_grad()
def changed(model: nn.Module, batch: Contrasts, ids_BT: Tensor, changes: Mapping[Site, Change]) -> Tensor:
    """LD of each pair when the model reads ``ids_BT`` and sites are changed. [B]."""
    with intervening(model, changes):
        return difference(model, batch, ids_BT)


def restored(part: Part, held: States) -> Change:
    """A part goes on with what it held in another run; the other heads of its block do not."""
    state = held[part.site]
    if part.head is None:
        return lambda _: state

    def only_this_head(own_BTAD: Tensor) -> Tensor:
        mixed_BTAD = own_BTAD.clone()
        mixed_BTAD[:, :, part.head] = state[:, :, part.head]
        return mixed_BTAD

    return only_this_head


def scaled(gained: float, clean: float, corrupt: float) -> float:
    """M of an LD, all summed over the same pairs.

    Raises:
        DataError: the model tells the right answers no better on clean than on corrupt prompts.
    """
    if not clean > corrupt:
        raise DataError(
            "the model does not tell the forget set's answers",
            why=f"clean prompts raise their first tokens by {clean - corrupt:.3g} over corrupt ones.",
            fix="Give a forget set that the model knows, or another contrast.",
        )
    return (gained - corrupt) / (clean - corrupt)
