"""What a localiser chooses from: the MLPs, attentions or heads of a model, and their weights.

Only weight matrices: biases and norms stay as they are, as in the published code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from expunge.model.arch import architecture, blocks
from expunge.model.intervention import Site, heads_of
from expunge.scope.selection import Selection

Modules = Literal["mlp", "attention", "sublayers", "heads"]
"""MLPs, attentions, both, or single heads."""


@dataclass(frozen=True)
class Part:
    """A module, or a head of one: where it writes, and which rows of which weights are its own."""

    name: str
    site: Site
    rows: Mapping[str, Tensor | None]
    head: int | None = None


def parts_of(model: nn.Module, modules: Modules) -> list[Part]:
    """Every part of the kind asked for, first block to last.

    A head is given the rows that are its own as the weights are stored: its queries, keys and values
    (keys and values are shared by the heads of a group); in GPT-2, where rows are inputs, what it
    writes. The other half of a head lies in columns, which no scope can select.
    """
    found: list[Part] = []
    for number in range(len(blocks(model))):
        if modules in ("attention", "sublayers"):
            found.append(_sublayer(model, Site("attention", number)))
        if modules in ("mlp", "sublayers"):
            found.append(_sublayer(model, Site("mlp", number)))
        if modules == "heads":
            found += [_head(model, number, head) for head in range(heads_of(model))]
    return found


def joined(parts: Iterable[Part]) -> Selection:
    """All that the parts may change; rows that several share are there once."""
    rows: dict[str, Tensor | None] = {}
    for part in parts:
        for name, own in part.rows.items():
            known = rows.get(name)
            rows[name] = own if known is None or own is None else known | own
    return Selection(rows)


def up_to(ranked: Sequence[Part], model: nn.Module, *, weights: int) -> list[Part]:
    """The first parts that hold at least so many weights together; all if they never do."""
    taken: list[Part] = []
    for part in ranked:
        taken.append(part)
        if joined(taken).count(model)[0] >= weights:
            break
    return taken


def _sublayer(model: nn.Module, site: Site) -> Part:
    arch = architecture(model)
    name = f"{arch.blocks}.{site.block}.{arch.mlp if site.place == 'mlp' else arch.attention}"
    own = model.get_submodule(name).named_parameters(prefix=name)
    return Part(name, site, {weight: None for weight, tensor in own if tensor.ndim == 2})


def _head(model: nn.Module, block: int, head: int) -> Part:
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
    return Part(f"{prefix}.head.{head}", Site("heads", block), rows, head)


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
