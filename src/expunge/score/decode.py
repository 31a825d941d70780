"""The loop that adds tokens to many answers at once, several at a time where they can be guessed.

Shapes: B rows, S tokens read at once, C places of the cache, K guessed tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from expunge.model.cache import GrowingLayer, spare
from expunge.score.guess import Guess

Stop = Callable[[list[int]], bool]
"""Whether a continuation, given its tokens so far, is complete."""

COMPACT_BELOW = 0.85
"""Rows are dropped from the cache once fewer than this share of them is still running."""

AT_ONCE = 256
"""Tokens read in one step at most, guesses among them: there are logits for each."""

STEP = 32
"""What a step costs beside its tokens, in tokens: weights are read once for all of them."""


class Context:
    """What a batch has read, and what it reads next: [B, S] ids, [B, C] which places of the cache count."""

    def __init__(self, *, cache: DynamicCache, mask_BC: Tensor, ids_BS: Tensor) -> None:
        self.cache = cache
        self.mask_BC = mask_BC
        self.ids_BS = ids_BS

    @property
    def can_forget(self) -> bool:
        """Whether places may be taken back: sliding windows and states count what is hidden."""
        return all(isinstance(layer, GrowingLayer) for layer in self.cache.layers)

    def keep(self, running: Tensor) -> None:
        """Drop all other rows."""
        self.cache.batch_select_indices(running)
        self.mask_BC = self.mask_BC[running]

    def add(self, rows: Sequence[Sequence[int]]) -> None:
        """Go on with some tokens a row, padded on the right."""
        width = max(map(len, rows))
        ids = [[*row, *[0] * (width - len(row))] for row in rows]
        real = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
        self.ids_BS = torch.tensor(ids, device=self.mask_BC.device)
        self.mask_BC = torch.cat([self.mask_BC, self.mask_BC.new_tensor(real)], dim=1)

    def take_back(self, right: Sequence[int], guessed: int) -> None:
        """Hide from each row those of its last ``guessed`` places that come after the ``right`` ones."""
        unused = guessed - max(right)
        if unused:
            self.cache.crop(-unused)
            self.mask_BC = self.mask_BC[:, :-unused]
        used = guessed - unused
        if used:
            right_B1 = torch.tensor(right, device=self.mask_BC.device)[:, None]
            self.mask_BC[:, -used:] *= torch.arange(used, device=self.mask_BC.device) < right_B1

    @property
    def holes(self) -> int:
        """Places that count for no row that has the most."""
        return self.mask_BC.shape[1] - int(self.mask_BC.sum(-1).max())

    def pack(self) -> None:
        """Close the holes that wrong guesses left."""
        width = int(self.mask_BC.sum(-1).max())
        order_BC = self.mask_BC.argsort(dim=-1, stable=True)[:, -width:]
        self.mask_BC = self.mask_BC.gather(1, order_BC)
        for layer in self.cache.layers:
            places = order_BC[:, None, :, None]
            layer.keys, layer.values = (
                held.gather(2, places.expand(-1, held.shape[1], -1, held.shape[3]))
                for held in (layer.keys, layer.values)
            )


def decode(
    model: nn.Module,
    context: Context,
    answers: list[list[int]],
    *,
    limits: Sequence[int],
    eos_ids: frozenset[int],
    is_done: Stop,
    guesses: Sequence[Guess] = (),
) -> list[list[int]]:
    """Add to every answer the likeliest tokens until it ends, is done or has as many as it may.

    With ``guesses``, one for each answer, several tokens are read at once, and those kept that are the
    likeliest.
    """
    rows = list(range(len(answers)))
    tried: list[list[int]] = [[] for _ in rows]
    guesser = dict(enumerate(guesses)) if context.can_forget else {}
    while True:
        said = _said(model, context, tried)
        for place, (row, tokens) in enumerate(zip(rows, said, strict=True)):
            if row < 0:
                continue
            if ends(answers[row], tokens, limits[row], eos_ids, is_done):
                rows[place] = -1
            elif row in guesser:
                guesser[row].learn(tokens, len(tried[place]))
        running = [place for place, row in enumerate(rows) if row >= 0]
        if not running:
            return answers
        _take_back(context, rows, said, tried)
        if len(running) < COMPACT_BELOW * len(rows):
            context.keep(torch.tensor(running, device=context.mask_BC.device))
            rows, said = [rows[place] for place in running], [said[place] for place in running]
        tried = _tries(
            rows, guesser, [limit - len(own) - 1 for limit, own in zip(limits, answers, strict=True)]
        )
        sure = [tokens[-1:] if row >= 0 else [] for row, tokens in zip(rows, said, strict=True)]
        context.add([[*own, *guess] for own, guess in zip(sure, tried, strict=True)])


def _tries(rows: Sequence[int], guesser: Mapping[int, Guess], room: Sequence[int]) -> list[list[int]]:
    """What to try for each row, all so long as pays: more tokens for the same step, but a dearer one."""
    wishes = [guesser[row].next(room[row]) if row in guesser else [] for row in rows]
    trust = [guesser[row].trust if wish else 0.0 for row, wish in zip(rows, wishes, strict=True)]
    running = sum(row >= 0 for row in rows)

    def pay(width: int) -> float:
        right = sum(share * min(width, len(wish)) for share, wish in zip(trust, wishes, strict=True))
        return (running + right) / (STEP + len(rows) * (1 + width))

    most = max(0, min(max(map(len, wishes)), AT_ONCE // len(rows) - 1))
    width = max(range(most + 1), key=pay)
    return [wish[:width] for wish in wishes]


def _take_back(
    context: Context, rows: Sequence[int], said: Sequence[Sequence[int]], tried: Sequence[Sequence[int]]
) -> None:
    """Forget the places of guesses that were wrong, and of rows that have ended."""
    guessed = max(map(len, tried))
    if not guessed:
        return
    context.take_back(
        [len(tokens) - 1 if row >= 0 else 0 for row, tokens in zip(rows, said, strict=True)], guessed
    )
    if context.holes > spare(context.mask_BC.shape[1]):
        context.pack()


def _said(model: Any, context: Context, tried: Sequence[Sequence[int]]) -> list[list[int]]:
    """Read the next ids; for each row the guesses that were right, and the token after them."""
    read = context.ids_BS.shape[1]
    places_BS = (context.mask_BC.cumsum(-1) - 1).clamp(min=0)[:, -read:]
    logits_BKV = model(
        input_ids=context.ids_BS,
        attention_mask=context.mask_BC,
        position_ids=places_BS,
        past_key_values=context.cache,
        use_cache=True,
        logits_to_keep=1 + max(map(len, tried)),
    ).logits
    best = logits_BKV.argmax(-1).tolist()
    return [own[: _right(guess, own) + 1] for guess, own in zip(tried, best, strict=True)]


def _right(guess: Sequence[int], best: Sequence[int]) -> int:
    """How many tokens of a guess, from its first, are what the model says."""
    wrong = (at for at, (one, other) in enumerate(zip(guess, best, strict=False)) if one != other)
    return next(wrong, len(guess))


def ends(
    answer: list[int], tokens: Sequence[int], limit: int, eos_ids: frozenset[int], is_done: Stop
) -> bool:
    """Add tokens to an answer up to its end; whether it was reached."""
    for token in tokens:
        if token in eos_ids:
            return True
        answer.append(token)
        if len(answer) >= limit or is_done(answer):
            return True
    return False
