"""Texts to statistics of each of their tokens: one forward pass each, batched by length.

Shapes: N counted tokens, H hidden units, V vocabulary; n rows whose logits exist at once, k of them
worked on at once.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import accumulate
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from expunge.corpus.batching import collate
from expunge.corpus.boundary import opening
from expunge.corpus.tokenise import Encoded, encode
from expunge.inference.backbone import counted, eval_mode, predictions
from expunge.inference.batches import Batches
from expunge.inference.generation.generate import Group, Prefix, groups, must_read_whole
from expunge.inference.generation.sample import PLAIN, TokenSampler
from expunge.inference.logprobs import BLOCK_ELEMENTS, CHUNK_ELEMENTS, Head, in_pieces
from expunge.model.arch import backbone, output_head, vocabulary
from expunge.model.rope import check_lengths
from expunge.types import Example

IMPOSSIBLE = -1e4
"""A finite value for log 0, where it is multiplied by a probability of exactly zero."""


class TokenStatsRows(NamedTuple):
    """For each counted token, [N]: log p, the likeliest token's id, mean and variance of log p.

    Mean and variance are under the model's own distribution at that place; minus the mean is its entropy.
    """

    logp_N: Tensor
    best_N: Tensor
    mean_N: Tensor
    variance_N: Tensor


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TokenStats:
    """Statistics of the counted tokens of one text, in order. Tensors [n], on the CPU.

    ``token_n`` are the ids, ``logp_n`` their log-probabilities in nats, ``best_n`` the likeliest ids;
    ``mean_n`` and ``variance_n`` describe log p under the model's own distribution at each place.
    ``sensitive_n`` marks tokens that touch one of the example's spans; ``ending`` is how many tokens at
    the end are no text (the end token, the end of a turn).
    """

    token_n: Tensor
    logp_n: Tensor
    best_n: Tensor
    mean_n: Tensor
    variance_n: Tensor
    sensitive_n: Tensor
    ending: int = 0

    def __len__(self) -> int:
        return len(self.token_n)

    @property
    def right_n(self) -> Tensor:
        """Whether each token is the likeliest one."""
        return self.best_n == self.token_n

    @property
    def text(self) -> TokenStats:
        """Without what ends the text."""
        return self.only(slice(0, len(self) - self.ending), ending=0)

    @property
    def counted(self) -> TokenStats:
        """Only what touches a span, where the example has spans."""
        return self.only(self.sensitive_n, ending=0) if self.sensitive_n.any() else self

    def first(self, count: int) -> TokenStats:
        """The first tokens, up to the given number."""
        return self if len(self) <= count else self.only(slice(0, count), ending=0)

    def only(self, which: Tensor | slice, *, ending: int) -> TokenStats:
        """The same of some of the tokens."""
        tensors = [field.name for field in fields(self) if field.name != "ending"]
        return TokenStats(**{name: getattr(self, name)[which] for name in tensors}, ending=ending)


class TextLogps(NamedTuple):
    """The log-probability of each token of a text, without what ends it, and which are sensitive. [n]."""

    logp_n: Tensor
    sensitive_n: Tensor


@torch.no_grad()
def compute_token_stats(
    head: Head, hidden_NH: Tensor, token_N: Tensor, *, vocabulary: int, sampler: TokenSampler = PLAIN
) -> TokenStatsRows:
    """The statistics of ``token`` under the distributions that ``sampler`` draws from, in float32.

    These are the ones ``hidden`` predicts, changed as the sampler does.
    """
    count, device = len(hidden_NH), hidden_NH.device
    numbers = [torch.empty(count, dtype=torch.float32, device=device) for _ in range(3)]
    best_N = torch.empty(count, dtype=torch.long, device=device)
    chunk, block = (elements // vocabulary for elements in (CHUNK_ELEMENTS, BLOCK_ELEMENTS))
    for hidden_nH, *rest in in_pieces(chunk, hidden_NH, token_N, best_N, *numbers):
        logits_nV = head(hidden_nH)
        for logits_kV, token_k, best_k, logp_k, mean_k, variance_k in in_pieces(block, logits_nV, *rest):
            logp_kV = sampler(logits_kV.float()).log_softmax(-1)
            logp_k.copy_(logp_kV.gather(-1, token_k[:, None]).squeeze(-1))
            top_k, best = logp_kV.max(-1)
            best_k.copy_(best)
            p_kV = logp_kV.exp()
            # Relative to the largest logit, and squares around the mean: no differences of large numbers.
            below_kV = (logp_kV - top_k[:, None]).clamp_(min=IMPOSSIBLE)
            drop_k = (p_kV * below_kV).sum(-1)
            mean_k.copy_(top_k + drop_k)
            variance_k.copy_((p_kV * below_kV.sub_(drop_k[:, None]).square_()).sum(-1))
    logp_N, mean_N, variance_N = numbers
    return TokenStatsRows(logp_N, best_N, mean_N, variance_N)


# From texts to statistics of their tokens: one forward pass each, batched by length.
#
# Shapes: B sequences, T positions after the shared prefix, N counted tokens of the batch, H hidden units.

UNCUT = 1 << 60
"""A length no text has: with it as the maximum, a document stays in one piece."""


class ScoredText(NamedTuple):
    """An example as the model reads it: its pieces, the counted tokens in spans, and its ending."""

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


def as_text(example: Example, tokenizer: Any, *, max_length: int) -> ScoredText:
    """An example in which every token of the completion counts; sensitive ones are marked separately.

    Raises:
        DataError: the example cannot be encoded, or its spans cover nothing.
    """
    unspanned = replace(example, spans=()) if example.spans else example
    pieces = encode(unspanned, tokenizer, max_length=max_length)
    count = sum(sum(piece.mask) for piece in pieces)
    ending = 0
    if not example.is_document:
        (bare,) = encode(unspanned, tokenizer, max_length=max_length, eos=False)
        ending = len(pieces[0].input_ids) - len(bare.input_ids)
    if not example.spans:
        return ScoredText(pieces, torch.zeros(count, dtype=torch.bool), ending)
    encode(example, tokenizer, max_length=max_length)  # refuses spans without a token
    (uncut,) = encode(example, tokenizer, max_length=UNCUT)
    return ScoredText(pieces, torch.tensor(_along(uncut.mask, pieces, len(opening(tokenizer)))), ending)


def _along(mask: list[bool], pieces: Sequence[Encoded], head: int) -> list[bool]:
    """A mask over an uncut text, for the counted tokens of its pieces, which each begin with ``head``."""
    flags, start = [], 0
    for piece in pieces:
        skip = 0 if start == 0 else head
        counted = mask[start : start + len(piece.input_ids) - skip]
        flags += [flag for flag, counts in zip(counted, piece.mask[skip:], strict=True) if counts]
        start += len(counted)
    return flags


@torch.inference_mode()
def read_texts(
    model: nn.Module,
    texts: Sequence[ScoredText],
    *,
    pad_id: int,
    batches: Batches,
    known: Mapping[int, TokenStatsRows] = MappingProxyType({}),
    sampler: TokenSampler = PLAIN,
) -> list[TokenStats]:
    """The statistics of every counted token of each text.

    ``known`` holds the statistics of the first piece of some texts, by index. Under a ``sampler`` the
    log-probability of a token that it never draws is -inf.
    """
    chunks = [chunk for text in texts for chunk in text.pieces]
    check_lengths(model, [len(chunk.input_ids) for chunk in chunks])
    firsts = [0, *accumulate(len(text.pieces) for text in texts)]
    stats = {firsts[index]: results for index, results in known.items()}
    with eval_mode(model):
        for group in _groups(model, chunks, without=stats):
            group_chunks = [chunks[row] for row in group.rows]
            prefix = Prefix(model, group.prefix) if group.prefix else None
            results = batches.run(
                [len(chunk.input_ids) for chunk in group_chunks],
                partial(_look, model, group_chunks, pad_id, prefix, sampler),
            )
            stats |= {group.rows[i]: value for i, value in results.items()}
    in_order = (stats[row] for row in range(len(chunks)))
    return [_facts(text, [next(in_order) for _ in text.pieces]) for text in texts]


def _groups(model: nn.Module, chunks: Sequence[Encoded], *, without: Container[int]) -> list[Group]:
    """Chunks that begin alike up to where they first count, unless a window would slide over it."""
    places = [index for index in range(len(chunks)) if index not in without]
    members = [chunks[index] for index in places]
    longest = max((len(chunk.input_ids) for chunk in members), default=0)
    # The token before the first that counts predicts it, so it is read with the rest.
    room = [0 if must_read_whole(model, longest) else chunk.mask.index(True) - 1 for chunk in members]
    grouped = groups([chunk.input_ids for chunk in members], room)
    return [Group(rows=[places[row] for row in group.rows], prefix=group.prefix) for group in grouped]


def _look(
    model: nn.Module,
    group: Sequence[Encoded],
    pad_id: int,
    prefix: Prefix | None,
    sampler: TokenSampler,
    rows: list[int],
) -> list[TokenStatsRows]:
    """What the model says of some chunks of a group."""
    device = next(model.parameters()).device
    chunks = [group[row] for row in rows]
    if prefix is None:
        predicted = predictions(model, collate(chunks, pad_id=pad_id).to(device))
        hidden_NH, token_N, where_BT = predicted
    else:
        hidden_NH, token_N, where_BT = _after(model, chunks, pad_id, prefix)
    stats = compute_token_stats(
        output_head(model), hidden_NH, token_N, vocabulary=vocabulary(model), sampler=sampler
    )
    counts = where_BT.sum(-1).tolist()
    by_chunk = zip(*(numbers_N.cpu().split(counts) for numbers_N in stats), strict=True)
    return [TokenStatsRows(*numbers) for numbers in by_chunk]


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


def _facts(text: ScoredText, stats: Sequence[TokenStatsRows]) -> TokenStats:
    logp, best, mean, variance = (torch.cat(pieces) for pieces in zip(*stats, strict=True))
    ids = [text.pieces[piece].input_ids[at] for piece, at in text.counted]
    return TokenStats(
        token_n=torch.tensor(ids),
        logp_n=logp,
        best_n=best,
        mean_n=mean,
        variance_n=variance,
        sensitive_n=text.sensitive_n,
        ending=text.ending,
    )
