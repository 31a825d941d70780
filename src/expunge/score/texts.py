"""Texts to what a model says of each of their tokens: one forward pass each, batched by length.

Shapes: B sequences, T positions after the shared prefix, N counted tokens of the batch, H hidden units.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from expunge.corpus.batching import collate
from expunge.corpus.boundary import opening
from expunge.corpus.tokenise import Encoded, encode
from expunge.model.arch import backbone, output_head, vocabulary
from expunge.model.positions import check_lengths
from expunge.score.backbone import counted, predictions
from expunge.score.batches import Batches
from expunge.score.facts import Looked, TokenFacts, look_up
from expunge.score.mode import evaluating
from expunge.score.prefix import Group, Prefix, groups, must_read_whole
from expunge.types import Example

UNCUT = 1 << 60
"""A length no text has: asked for so many tokens at once, a document stays in one piece."""


class Text(NamedTuple):
    """An example as the model reads it: its pieces, which counted tokens touch a span, what ends it."""

    pieces: list[Encoded]
    sensitive_n: Tensor
    ending: int

    @property
    def counted(self) -> list[tuple[int, int]]:
        """Piece and position of every counted token."""
        return [
            (number, at)
            for number, piece in enumerate(self.pieces)
            for at, counts in enumerate(piece.mask)
            if counts
        ]


def as_text(example: Example, tokenizer: Any, *, max_length: int) -> Text:
    """Every token of the completion counts, whatever its spans; which of them are sensitive stands beside.

    Raises:
        DataError: the example cannot be encoded, or its spans cover nothing.
    """
    whole = replace(example, spans=()) if example.spans else example
    pieces = encode(whole, tokenizer, max_length=max_length)
    count = sum(sum(piece.mask) for piece in pieces)
    ending = 0
    if not example.is_document:
        (bare,) = encode(whole, tokenizer, max_length=max_length, eos=False)
        ending = len(pieces[0].input_ids) - len(bare.input_ids)
    if not example.spans:
        return Text(pieces, torch.zeros(count, dtype=torch.bool), ending)
    encode(example, tokenizer, max_length=max_length)  # refuses spans without a token
    (uncut,) = encode(example, tokenizer, max_length=UNCUT)
    return Text(pieces, torch.tensor(_along(uncut.mask, pieces, len(opening(tokenizer)))), ending)


def _along(mask: list[bool], pieces: Sequence[Encoded], head: int) -> list[bool]:
    """A mask over an uncut text, for the counted tokens of its pieces, which each begin with ``head``."""
    found, start = [], 0
    for piece in pieces:
        skip = 0 if start == 0 else head
        own = mask[start : start + len(piece.input_ids) - skip]
        found += [flag for flag, counts in zip(own, piece.mask[skip:], strict=True) if counts]
        start += len(own)
    return found


@torch.inference_mode()
def read_texts(
    model: nn.Module,
    texts: Sequence[Text],
    *,
    pad_id: int,
    batches: Batches,
    known: Mapping[int, Looked] = MappingProxyType({}),
) -> list[TokenFacts]:
    """What the model says of every counted token of each text.

    ``known`` is what it was found to say of the first piece of some texts, by their places.
    """
    chunks = [chunk for text in texts for chunk in text.pieces]
    check_lengths(model, [len(chunk.input_ids) for chunk in chunks])
    firsts = [0, *accumulate(len(text.pieces) for text in texts)]
    looked = {firsts[place]: found for place, found in known.items()}
    with evaluating(model):
        for group in _groups(model, chunks, without=looked):
            own = [chunks[row] for row in group.rows]
            prefix = Prefix(model, group.prefix) if group.prefix else None
            found = batches.run(
                [len(chunk.input_ids) for chunk in own], partial(_look, model, own, pad_id, prefix)
            )
            looked |= {group.rows[i]: value for i, value in found.items()}
    in_order = (looked[row] for row in range(len(chunks)))
    return [_facts(text, [next(in_order) for _ in text.pieces]) for text in texts]


def _groups(model: nn.Module, chunks: Sequence[Encoded], *, without: Container[int]) -> list[Group]:
    """Chunks that begin alike up to where they first count, unless a window would slide over it."""
    places = [place for place in range(len(chunks)) if place not in without]
    own = [chunks[place] for place in places]
    longest = max((len(chunk.input_ids) for chunk in own), default=0)
    # The token before the first that counts predicts it, so it is read with the rest.
    room = [0 if must_read_whole(model, longest) else chunk.mask.index(True) - 1 for chunk in own]
    found = groups([chunk.input_ids for chunk in own], room)
    return [Group(rows=[places[row] for row in each.rows], prefix=each.prefix) for each in found]


def _look(
    model: nn.Module, group: Sequence[Encoded], pad_id: int, prefix: Prefix | None, rows: list[int]
) -> list[Looked]:
    """What the model says of some chunks of a group."""
    device = next(model.parameters()).device
    chunks = [group[row] for row in rows]
    if prefix is None:
        found = predictions(model, collate(chunks, pad_id=pad_id).to(device))
        hidden_NH, token_N, where_BT = found
    else:
        hidden_NH, token_N, where_BT = _after(model, chunks, pad_id, prefix)
    looked = look_up(output_head(model), hidden_NH, token_N, vocabulary=vocabulary(model))
    counts = where_BT.sum(-1).tolist()
    by_chunk = zip(*(numbers_N.cpu().split(counts) for numbers_N in looked), strict=True)
    return [Looked(*numbers) for numbers in by_chunk]


def _after(
    model: nn.Module, chunks: Sequence[Encoded], pad_id: int, prefix: Prefix
) -> tuple[Tensor, Tensor, Tensor]:
    """As ``predictions``, with what all chunks begin with read before."""
    device, shared = next(model.parameters()).device, len(prefix.ids)
    rests = [Encoded(one.input_ids[shared:], one.mask[shared:], one.example) for one in chunks]
    batch = collate(rests, pad_id=pad_id).to(device)
    real_BT, where_BT = batch.attention_mask_BT, counted(batch)
    states_BTH = backbone(model)(
        input_ids=batch.input_ids_BT,
        attention_mask=torch.cat([real_BT.new_ones(len(chunks), shared), real_BT], dim=1),
        position_ids=torch.arange(shared, shared + real_BT.shape[1], device=device).expand_as(real_BT),
        past_key_values=prefix.cache(len(chunks)),
        use_cache=True,
    ).last_hidden_state
    return states_BTH[:, :-1][where_BT[:, 1:]], batch.input_ids_BT[where_BT], where_BT


def _facts(text: Text, looked: Sequence[Looked]) -> TokenFacts:
    logp, best, mean, variance = (torch.cat(pieces) for pieces in zip(*looked, strict=True))
    ids = [text.pieces[piece].input_ids[at] for piece, at in text.counted]
    return TokenFacts(
        token_n=torch.tensor(ids),
        logp_n=logp,
        best_n=best,
        mean_n=mean,
        variance_n=variance,
        sensitive_n=text.sensitive_n,
        ending=text.ending,
    )
