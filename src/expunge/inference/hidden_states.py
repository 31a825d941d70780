"""Hidden states at the positions that predict counted tokens, of one block or of the last.

Shapes: B sequences, T positions, H hidden units, N counted tokens of the whole batch; b, t of one part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from expunge.corpus.batching import collate
from expunge.corpus.tokenise import Encoded
from expunge.inference.backbone import counted, eval_mode, parts, predictions
from expunge.inference.batches import Batches
from expunge.inference.texts import ScoredText
from expunge.model.arch import architecture, blocks, output_layer
from expunge.model.intervention import Site, intervening
from expunge.model.rope import check_lengths

if TYPE_CHECKING:
    from expunge.corpus.batching import Batch

DEPTH = 7 / 32
"""How far up the block is where none is named: block 7 of 32, as in RMU's main experiments."""


def block_of(model: nn.Module, layer: int | None) -> int:
    """The block that ``layer`` names, counted from 0; unset, the one ``DEPTH`` of the way up."""
    return int(DEPTH * len(blocks(model))) if layer is None else layer


class Inner:
    """Stores the outputs of a block, one part of a batch after another."""

    def __init__(self) -> None:
        self._found: list[Tensor] = []

    def keep(self, hidden_btH: Tensor) -> Tensor:
        """Keep the states of the next part and change nothing."""
        self._found.append(hidden_btH)
        return hidden_btH

    def predicting(self, batch: Batch) -> Tensor:
        """The states at the positions before counted tokens, in the order of the batch. Shape [N, H]."""
        where_BT = counted(batch)
        states: dict[int, Tensor] = {}
        for rows, hidden_btH in zip(
            parts(batch.attention_mask_BT.sum(-1).tolist()), self._found, strict=True
        ):
            where = where_BT[rows, 1 : hidden_btH.shape[1]]
            hidden_states = hidden_btH[:, :-1][where].split(where.sum(-1).tolist())
            states |= dict(zip(rows, hidden_states, strict=True))
        return torch.cat([states[row] for row in range(len(states))])


@contextmanager
def watching(model: nn.Module, layer: int | None) -> Iterator[Inner]:
    """Store the outputs of ``layer`` inside the ``with`` block.

    Raises:
        RecipeError: the model has no block of that number.
    """
    inner = Inner()
    with intervening(model, {Site("residual_out", block_of(model, layer)): inner.keep}):
        yield inner


# Stored hidden states and the output head, from which distributions can be recomputed without the model.
#
# Shapes: n counted tokens of a text, H hidden units, V vocabulary.


class States(NamedTuple):
    """The ids of some counted tokens of a text [n], and the hidden states that predict them [n, H]."""

    token_n: Tensor
    hidden_nH: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """An output layer apart from its model: hidden states [n, H] to the logits [n, V] the model gives."""

    weight_VH: Tensor
    bias_V: Tensor | None
    divisor: float
    softcap: float | None

    @classmethod
    def of(cls, model: nn.Module) -> Head:
        """The head of ``model``, on the CPU."""
        layer, arch = output_layer(model), architecture(model)
        bias = getattr(layer, "bias", None)
        return cls(
            weight_VH=layer.get_parameter("weight").detach().cpu().clone(),
            bias_V=None if bias is None else bias.detach().cpu().clone(),
            divisor=arch.divisor,
            softcap=arch.softcap,
        )

    def to(self, device: torch.device) -> Head:
        """The same on another device."""
        bias_V = None if self.bias_V is None else self.bias_V.to(device)
        return Head(
            weight_VH=self.weight_VH.to(device), bias_V=bias_V, divisor=self.divisor, softcap=self.softcap
        )

    def __call__(self, hidden_nH: Tensor) -> Tensor:
        """The logits."""
        logits_nV = nn.functional.linear(hidden_nH, self.weight_VH, self.bias_V)
        if self.divisor != 1.0:
            logits_nV = logits_nV / self.divisor
        if self.softcap is not None:
            logits_nV = torch.tanh(logits_nV / self.softcap) * self.softcap
        return logits_nV


@torch.inference_mode()
def read_states(
    model: nn.Module, texts: Sequence[ScoredText], *, tokens: int, pad_id: int, batches: Batches
) -> list[States]:
    """Of each text the states behind its first ``tokens`` counted tokens: those in spans, if it has any.

    Tokens after the last of them are not read.
    """
    wanted = [_wanted(text, tokens) for text in texts]
    pieces = [_pieces(text, which[-1] if which else -1) for text, which in zip(texts, wanted, strict=True)]
    chunks = [chunk for own in pieces for chunk in own]
    check_lengths(model, [len(chunk.input_ids) for chunk in chunks])
    with eval_mode(model):
        results = batches.run(
            [len(pair.input_ids) for pair in chunks], partial(_read, model, chunks, pad_id)
        )
    in_order = (results[row] for row in range(len(chunks)))
    read = [[next(in_order) for _ in own] for own in pieces]
    return [_states(*pair) for pair in zip(wanted, read, strict=True)]


def _wanted(text: ScoredText, tokens: int) -> list[int]:
    """Numbers of the counted tokens that are asked for."""
    marked = text.sensitive_n.nonzero()[:, 0].tolist()
    return (marked or list(range(len(text.sensitive_n))))[:tokens]


def _pieces(text: ScoredText, last: int) -> list[Encoded]:
    """The pieces of a text up to counted token number ``last``; none before the first."""
    if last < 0:
        return []
    number, at = text.counted[last]
    end = text.pieces[number]
    cut = Encoded(end.input_ids[: at + 1], end.mask[: at + 1], end.example)
    return [*text.pieces[:number], cut]


def _read(model: nn.Module, chunks: Sequence[Encoded], pad_id: int, rows: list[int]) -> list[States]:
    batch = collate([chunks[row] for row in rows], pad_id=pad_id).to(next(model.parameters()).device)
    hidden_NH, token_N, where_BT = predictions(model, batch)
    counts = where_BT.sum(-1).tolist()
    by_chunk = zip(token_N.cpu().split(counts), hidden_NH.cpu().split(counts), strict=True)
    return [States(token_n.clone(), hidden_nH.clone()) for token_n, hidden_nH in by_chunk]


def _states(wanted: list[int], read: Sequence[States]) -> States:
    if not wanted:
        return States(torch.zeros(0, dtype=torch.long), torch.zeros(0, 0))
    token_n, hidden_nH = (torch.cat(pieces) for pieces in zip(*read, strict=True))
    return States(token_n[wanted], hidden_nH[wanted])
