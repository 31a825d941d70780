"""Score every token of a text and continue one of its prefixes in a single pass.

The keys and values of a text include those of its prefixes, so nothing is read twice.

Shapes: B texts, T positions, C places of the cache, N counted tokens of the batch, H hidden units.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from expunge.corpus.batching import collate
from expunge.corpus.tokenise import Encoded, encode_prompt
from expunge.inference.backbone import counted, eval_mode
from expunge.inference.batches import Batches
from expunge.inference.generation.cache import Generation, as_example, end_tokens
from expunge.inference.generation.decode import PromptLookupDrafter
from expunge.inference.generation.generate import go_on, must_read_whole
from expunge.inference.texts import ScoredText, TokenStats, TokenStatsRows, compute_token_stats, read_texts
from expunge.model.arch import backbone, output_head, vocabulary
from expunge.model.cache import new_cache
from expunge.model.rope import learned_positions


class ContinuationPoint(NamedTuple):
    """A text in one piece, the length of the prefix to continue, and the number of tokens."""

    piece: Encoded
    cut: int
    tokens: int


class ScoredContinuation(NamedTuple):
    """The statistics of a text's counted tokens, and the continuation after the cut."""

    looked: TokenStatsRows
    said: list[int]


@torch.inference_mode()
def score_and_continue(
    model: nn.Module,
    points: Sequence[ContinuationPoint],
    *,
    pad_id: int,
    eos_ids: frozenset[int],
    batches: Batches,
) -> list[ScoredContinuation]:
    """Score and continue every text. Not for models with a sliding window, nor beyond their context."""
    lengths = [len(point.piece.input_ids) + point.tokens for point in points]
    with eval_mode(model):
        results = batches.run(lengths, partial(_batch, model, points, pad_id, eos_ids))
    return [results[row] for row in range(len(points))]


def _batch(
    model: nn.Module,
    points: Sequence[ContinuationPoint],
    pad_id: int,
    eos_ids: frozenset[int],
    rows: list[int],
) -> list[ScoredContinuation]:
    device = next(model.parameters()).device
    batch_points = [points[row] for row in rows]
    batch = collate([point.piece for point in batch_points], pad_id=pad_id).to(device)
    where_BT, cache = counted(batch), new_cache(model)
    states_BTH = backbone(model)(
        input_ids=batch.input_ids_BT,
        attention_mask=batch.attention_mask_BT,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    hidden_NH = states_BTH[:, :-1][where_BT[:, 1:]]
    del states_BTH  # free them before the logits are computed
    token_N = batch.input_ids_BT[where_BT]
    stats = compute_token_stats(output_head(model), hidden_NH, token_N, vocabulary=vocabulary(model))
    del hidden_NH
    completions = go_on(
        model,
        cache,
        batch.input_ids_BT,
        [point.cut for point in batch_points],
        limits=[point.tokens for point in batch_points],
        eos_ids=eos_ids,
        guesses=[
            PromptLookupDrafter(point.piece.input_ids[: point.cut], point.piece.input_ids[point.cut :])
            for point in batch_points
        ],
    )
    counts = where_BT.sum(-1).tolist()
    by_text = zip(*(numbers_N.cpu().split(counts) for numbers_N in stats), strict=True)
    return [
        ScoredContinuation(TokenStatsRows(*numbers), tokens)
        for numbers, tokens in zip(by_text, completions, strict=True)
    ]


# Announced prompts are matched with the documents that begin with them.
#
# Scoring such a document includes its prompt, which is continued while its keys and values are in memory.


class PrefetchedText(NamedTuple):
    """The statistics of a text, and the continuation of an expected prompt it begins with, if any."""

    facts: TokenStats
    said: tuple[str, Generation] | None


class ContinuationPrefetcher:
    """Scores texts, and continues those that begin with an expected prompt."""

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._tokens: dict[str, int] = {}

    def prefetch(self, prompts: Sequence[str], tokens: int) -> None:
        """Announce prompts that will be continued, and by how many tokens."""
        for prompt in prompts:
            self._tokens[prompt] = max(tokens, self._tokens.get(prompt, 0))

    def read(
        self, texts: Sequence[ScoredText], documents: Sequence[str | None], *, pad_id: int, batches: Batches
    ) -> list[PrefetchedText]:
        """Every text once. ``documents`` are the words of those that are nothing but text."""
        begun = {}
        for index, (text, words) in enumerate(zip(texts, documents, strict=True)):
            prompt = None if words is None else self._beginning(words)
            onward = None if prompt is None else self._onward(prompt, text.pieces[0])
            if prompt is not None and onward is not None:
                begun[index] = (prompt, onward)
        read = score_and_continue(
            self.model,
            [onward for _, onward in begun.values()],
            pad_id=pad_id,
            eos_ids=end_tokens(self.model, self.tokenizer),
            batches=batches,
        )
        both = dict(zip(begun, read, strict=True))
        known = {index: facts_of_text.looked for index, facts_of_text in both.items()}
        facts = read_texts(self.model, texts, pad_id=pad_id, batches=batches, known=known)
        completions = {
            index: (prompt, _said(both[index], onward)) for index, (prompt, onward) in begun.items()
        }
        return [
            PrefetchedText(facts_of_text, completions.get(index))
            for index, facts_of_text in enumerate(facts)
        ]

    def _beginning(self, words: str) -> str | None:
        """The longest expected prompt that a document begins with."""
        return max((prompt for prompt in self._tokens if words.startswith(prompt)), key=len, default=None)

    def _onward(self, prompt: str, piece: Encoded) -> ContinuationPoint | None:
        """Where to continue a piece; ``None`` if it does not begin with exactly the prompt's tokens."""
        ids, tokens = encode_prompt(as_example(prompt), self.tokenizer), self._tokens[prompt]
        room, longest = learned_positions(self.model), len(piece.input_ids) + tokens
        has_room = room is None or len(ids) + tokens <= room
        if piece.input_ids[: len(ids)] != ids or not has_room or must_read_whole(self.model, longest):
            return None
        return ContinuationPoint(piece, len(ids), tokens)


def _said(both: ScoredContinuation, onward: ContinuationPoint) -> Generation:
    return Generation(array("l", both.said), ended=len(both.said) < onward.tokens)
