"""The parts of a model a localiser chooses from, and the effect of changing one.

The measure M is the logit difference LD = z[true] − z[false] at the last token of the prompt, scaled so
that the clean run has 1 and the corrupt run 0. It is scaled by sums over all pairs: single pairs that
the model hardly tells apart would blow it up. Shapes: B pairs, T positions, H hidden units, N pairs in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from expunge.errors import DataError
from expunge.model.arch import architecture, backbone, blocks, head_logits
from expunge.model.intervention import Change, Site, capturing, heads_of, intervening
from expunge.scope.facts import Contrasts
from expunge.scope.selection import Selection

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


def restored(part: ModelPart, held: States) -> Change:
    """A part continues with its activation of another run; the other heads of its block do not."""
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
            "the model does not distinguish the forget set's answers",
            why=f"clean prompts raise their first tokens by {clean - corrupt:.3g} over corrupt ones.",
            fix="Pass a forget set that the model knows, or another contrast.",
        )
    return (gained - corrupt) / (clean - corrupt)


# What a localiser chooses from: the MLPs, attentions or heads of a model, and their weights.
#
# Only weight matrices: biases and norms stay as they are, as in the published code.

Modules = Literal["mlp", "attention", "sublayers", "heads"]
"""MLPs, attentions, both, or single heads."""


@dataclass(frozen=True)
class ModelPart:
    """A module, or a head of one: where it writes, and which rows of which weights are its own."""

    name: str
    site: Site
    rows: Mapping[str, Tensor | None]
    head: int | None = None


def parts_of(model: nn.Module, modules: Modules) -> list[ModelPart]:
    """Every part of the kind asked for, first block to last.

    A head is given the rows that are its own as the weights are stored: its queries, keys and values
    (keys and values are shared by the heads of a group); in GPT-2, where rows are inputs, what it
    writes. The other half of a head is in columns, which no scope can select.
    """
    parts: list[ModelPart] = []
    for number in range(len(blocks(model))):
        if modules in ("attention", "sublayers"):
            parts.append(_sublayer(model, Site("attention", number)))
        if modules in ("mlp", "sublayers"):
            parts.append(_sublayer(model, Site("mlp", number)))
        if modules == "heads":
            parts += [_head(model, number, head) for head in range(heads_of(model))]
    return parts


def joined(parts: Iterable[ModelPart]) -> Selection:
    """All that the parts may change; rows that several share are there once."""
    rows: dict[str, Tensor | None] = {}
    for part in parts:
        for name, own in part.rows.items():
            known = rows.get(name)
            rows[name] = own if known is None or own is None else known | own
    return Selection(rows)


def up_to(ranked: Sequence[ModelPart], model: nn.Module, *, weights: int) -> list[ModelPart]:
    """The first parts that together hold at least ``weights`` weights; all if they never do."""
    taken: list[ModelPart] = []
    for part in ranked:
        taken.append(part)
        if joined(taken).count(model)[0] >= weights:
            break
    return taken


def _sublayer(model: nn.Module, site: Site) -> ModelPart:
    arch = architecture(model)
    name = f"{arch.blocks}.{site.block}.{arch.mlp if site.place == 'mlp' else arch.attention}"
    parameters = model.get_submodule(name).named_parameters(prefix=name)
    return ModelPart(name, site, {weight: None for weight, tensor in parameters if tensor.ndim == 2})


def _head(model: nn.Module, block: int, head: int) -> ModelPart:
    arch = architecture(model)
    prefix = f"{arch.blocks}.{block}.{arch.attention}"
    heads = heads_of(model)
    matrices = {
        name: weight for name, weight in model.get_submodule(prefix).named_parameters() if weight.ndim == 2
    }
    writer = matrices.pop(f"{arch.attention_out}.weight")
    size = writer.shape[0 if arch.transposed else 1] // heads
    if arch.transposed:
        own = {f"{arch.attention_out}.weight": _rows(writer, [head * size], size)}
    else:
        own = {
            name: _rows(weight, _starts(name, weight, head=head, heads=heads, size=size), size)
            for name, weight in matrices.items()
        }
    rows = {f"{prefix}.{name}": mask for name, mask in own.items()}
    return ModelPart(f"{prefix}.head.{head}", Site("heads", block), rows, head)


def _starts(name: str, weight: Tensor, *, head: int, heads: int, size: int) -> list[int]:
    """Where the rows of a head begin in a weight that makes queries, keys, values, or all three."""
    count = len(weight) // size
    if name.startswith("query_key_value"):  # query, key and value of one head after another
        return [(3 * head + kind) * size for kind in range(3)]
    if name.startswith("qkv_proj"):  # all queries, all keys, all values
        shared = (count - heads) // 2
        group = head * shared // heads
        return [head * size, (heads + group) * size, (heads + shared + group) * size]
    return [head * count // heads * size]


def _rows(weight: Tensor, starts: Sequence[int], size: int) -> Tensor:
    mask = torch.zeros(len(weight), dtype=torch.bool)
    for start in starts:
        mask[start : start + size] = True
    return mask
