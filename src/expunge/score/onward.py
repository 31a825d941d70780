"""Texts read once for two ends: what a model says of every token, and how it goes on from inside.

The keys and values of a text hold those of its beginning: nothing is read twice.

Shapes: B texts, T positions, C places of the cache, N counted tokens of the batch, H hidden units.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from expunge.corpus.batching import collate
from expunge.corpus.tokenise import Encoded
from expunge.model.arch import backbone, output_head, vocabulary
from expunge.model.cache import new_cache
from expunge.score.backbone import counted
from expunge.score.batches import Batches
from expunge.score.facts import Looked, look_up
from expunge.score.generate import go_on
from expunge.score.guess import Guess
from expunge.score.mode import evaluating


class Onward(NamedTuple):
    """A text in one piece, after how many of its tokens it is gone on with, and how far."""

    piece: Encoded
    cut: int
    tokens: int


class Both(NamedTuple):
    """What a model says of a text's counted tokens, and the tokens it says after the cut."""

    looked: Looked
    said: list[int]


@torch.inference_mode()
def read_onward(
    model: nn.Module, asked: Sequence[Onward], *, pad_id: int, eos_ids: frozenset[int], batches: Batches
) -> list[Both]:
    """Read every text and go on with it. Not for models with a sliding window, nor past their context."""
    lengths = [len(each.piece.input_ids) + each.tokens for each in asked]
    with evaluating(model):
        found = batches.run(lengths, partial(_batch, model, asked, pad_id, eos_ids))
    return [found[row] for row in range(len(asked))]


def _batch(
    model: nn.Module, asked: Sequence[Onward], pad_id: int, eos_ids: frozenset[int], rows: list[int]
) -> list[Both]:
    device = next(model.parameters()).device
    own = [asked[row] for row in rows]
    batch = collate([each.piece for each in own], pad_id=pad_id).to(device)
    where_BT, cache = counted(batch), new_cache(model)
    states_BTH = backbone(model)(
        input_ids=batch.input_ids_BT,
        attention_mask=batch.attention_mask_BT,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    hidden_NH = states_BTH[:, :-1][where_BT[:, 1:]]
    del states_BTH  # not beside the logits
    token_N = batch.input_ids_BT[where_BT]
    looked = look_up(output_head(model), hidden_NH, token_N, vocabulary=vocabulary(model))
    del hidden_NH
    said = go_on(
        model,
        cache,
        batch.input_ids_BT,
        [each.cut for each in own],
        limits=[each.tokens for each in own],
        eos_ids=eos_ids,
        guesses=[Guess(each.piece.input_ids[: each.cut], each.piece.input_ids[each.cut :]) for each in own],
    )
    counts = where_BT.sum(-1).tolist()
    by_text = zip(*(numbers_N.cpu().split(counts) for numbers_N in looked), strict=True)
    return [Both(Looked(*numbers), tokens) for numbers, tokens in zip(by_text, said, strict=True)]
