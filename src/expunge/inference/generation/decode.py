"""The decoding loop, and prompt-lookup drafts of several tokens that it verifies at once.

Models repeat themselves and their prompt, and one that memorised a text continues it. A draft is cheap to
verify and does not change the result: only tokens that the model would have generated are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from expunge.model.cache import GrowingLayer, spare

LONGEST = 8
"""Maximum length of a draft."""


class PromptLookupDrafter:
    """Drafts the tokens that followed the last occurrence of the text's last two tokens.

    ``wanted`` is a known continuation of the text (a document that it begins), used as the draft while
    the model agrees with it.
    Source: prompt lookup decoding (Saxena 2023), greedy speculation of Stern et al. 2018 (arXiv
    1811.03115); here for whole batches.
    """

    def __init__(self, tokens: Iterable[int], wanted: Sequence[int] = ()) -> None:
        self._tokens: list[int] = []
        self._after: dict[tuple[int, int], int] = {}
        self._wanted: Sequence[int] = ()
        self._said = 0
        self._reach = 2
        for token in tokens:
            self._append(token)
        self._wanted = wanted

    def update(self, tokens: Sequence[int], guessed: int) -> None:
        """Append generated tokens; all but the last were among the ``guessed`` ones."""
        for token in tokens:
            self._append(token)
            if self._said < len(self._wanted) and self._wanted[self._said] != token:
                self._wanted = ()
            self._said += 1
        if guessed:
            right = len(tokens) - 1
            self._reach = min(LONGEST, 2 * self._reach) if right == guessed else max(1, right)

    @property
    def acceptance_rate(self) -> float:
        """The expected acceptance rate of a draft token, from the recent drafts."""
        return self._reach / (self._reach + 1)

    def propose(self, most: int) -> list[int]:
        """A draft of limited length, which is shorter after rejected drafts."""
        most = min(most, self._reach)
        if most <= 0:
            return []
        if self._said < len(self._wanted):
            return list(self._wanted[self._said : self._said + most])
        position = self._after.get((self._tokens[-2], self._tokens[-1])) if len(self._tokens) > 1 else None
        if position is None:
            return []
        period = len(self._tokens) - position
        return [self._tokens[position + at % period] for at in range(most)]

    def _append(self, token: int) -> None:
        if len(self._tokens) > 1:
            self._after[(self._tokens[-2], self._tokens[-1])] = len(self._tokens)
        self._tokens.append(token)


# The decoding loop: many answers at once, several tokens per step where drafts are accepted.
#
# Shapes: B rows, S tokens read at once, C places of the cache, K guessed tokens of a row.

Stop = Callable[[list[int]], bool]
"""Whether a continuation, given its tokens so far, is complete."""

COMPACT_BELOW = 0.85
"""Rows are dropped from the cache once fewer than this share of them is still running."""

AT_ONCE = 256
"""Tokens read in one step at most, guesses among them: there are logits for each."""

STEP = 32
"""The fixed cost of a step in units of tokens: weights are read once for all of them."""


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
        """Mask those of each row's last ``guessed`` positions that come after the ``right`` ones."""
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
        """The number of masked positions in the row that has the most."""
        return self.mask_BC.shape[1] - int(self.mask_BC.sum(-1).max())

    def pack(self) -> None:
        """Compact the cache after rejected draft tokens."""
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
    guesses: Sequence[PromptLookupDrafter] = (),
) -> list[list[int]]:
    """Add to every answer the likeliest tokens until it ends, is done or has as many as it may.

    With ``guesses``, one for each answer, several tokens are read at once, and those kept that are the
    likeliest.
    """
    rows = list(range(len(answers)))
    tried: list[list[int]] = [[] for _ in rows]
    guesser = dict(enumerate(guesses)) if context.can_forget else {}
    while True:
        completions = _said(model, context, tried)
        for index, (row, tokens) in enumerate(zip(rows, completions, strict=True)):
            if row < 0:
                continue
            if ends(answers[row], tokens, limits[row], eos_ids, is_done):
                rows[index] = -1
            elif row in guesser:
                guesser[row].update(tokens, len(tried[index]))
        running = [index for index, row in enumerate(rows) if row >= 0]
        if not running:
            return answers
        _take_back(context, rows, completions, tried)
        if len(running) < COMPACT_BELOW * len(rows):
            context.keep(torch.tensor(running, device=context.mask_BC.device))
            rows, completions = (
                [rows[index] for index in running],
                [completions[index] for index in running],
            )
        tried = _tries(
            rows,
            guesser,
            [limit - len(accepted) - 1 for limit, accepted in zip(limits, answers, strict=True)],
        )
        sure = [tokens[-1:] if row >= 0 else [] for row, tokens in zip(rows, completions, strict=True)]
        context.add([[*accepted, *guess] for accepted, guess in zip(sure, tried, strict=True)])


def _tries(
    rows: Sequence[int], guesser: Mapping[int, PromptLookupDrafter], room: Sequence[int]
) -> list[list[int]]:
    """The draft for each row, as long as is worthwhile: longer drafts make a step more expensive."""
    wishes = [guesser[row].propose(room[row]) if row in guesser else [] for row in rows]
    trust = [guesser[row].acceptance_rate if wish else 0.0 for row, wish in zip(rows, wishes, strict=True)]
    running = sum(row >= 0 for row in rows)

    def pay(width: int) -> float:
        right = sum(share * min(width, len(wish)) for share, wish in zip(trust, wishes, strict=True))
        return (running + right) / (STEP + len(rows) * (1 + width))

    most = max(0, min(max(map(len, wishes)), AT_ONCE // len(rows) - 1))
    width = max(range(most + 1), key=pay)
    return [wish[:width] for wish in wishes]


def _take_back(
    context: Context,
    rows: Sequence[int],
    completions: Sequence[Sequence[int]],
    tried: Sequence[Sequence[int]],
) -> None:
    """Remove cache positions of rejected draft tokens, and rows that have ended."""
    guessed = max(map(len, tried))
    if not guessed:
        return
    context.take_back(
        [len(tokens) - 1 if row >= 0 else 0 for row, tokens in zip(rows, completions, strict=True)], guessed
    )
    if context.holes > spare(context.mask_BC.shape[1]):
        context.pack()


def _said(model: Any, context: Context, tried: Sequence[Sequence[int]]) -> list[list[int]]:
    """Read the next ids; for each row the accepted draft tokens, and the token after them."""
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
    return [tokens[: _right(guess, tokens) + 1] for guess, tokens in zip(tried, best, strict=True)]


def _right(guess: Sequence[int], best: Sequence[int]) -> int:
    """How many leading tokens of a draft the model agrees with."""
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
