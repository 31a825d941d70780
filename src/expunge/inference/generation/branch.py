"""Greedy continuations from inside a text, branching before any of its counted tokens.

The text is read once for all branch points; each sees the keys and values of the tokens before it.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from expunge.inference.backbone import eval_mode
from expunge.inference.batches import Batches, map_across_ranks
from expunge.inference.generation.cache import NOTHING, Generation, end_tokens
from expunge.inference.generation.generate import Prefix, branch, greedy, must_read_whole
from expunge.inference.texts import as_text
from expunge.model.rope import check_lengths
from expunge.types import Example


class BranchPoint(NamedTuple):
    """A request to continue an example before counted token ``at``, by at most ``tokens`` tokens."""

    example: Example
    at: int
    tokens: int


class _Cut(NamedTuple):
    """The first ``length`` tokens of a piece of a text, and how many may follow them."""

    piece: int
    length: int
    tokens: int


class BranchedGeneration:
    """Continuations from inside texts, each generated once."""

    def __init__(self, model: nn.Module, tokenizer: Any, batches: Batches, *, max_length: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batches = batches
        self.max_length = max_length
        self._said: dict[tuple[Example, int], Generation] = {}

    def __call__(self, points: Sequence[BranchPoint]) -> list[list[int]]:
        """The continuation at each branch point, without an end token."""
        wanted: dict[Example, dict[int, int]] = {}
        for example, at, tokens in points:
            if not self._is_enough(example, at, tokens):
                places = wanted.setdefault(example, {})
                places[at] = max(tokens, places.get(at, 0))
        new = list(wanted.items())
        for (example, places), completions in zip(new, map_across_ranks(new, self._texts), strict=True):
            self._said.update(
                {(example, at): completion for at, completion in zip(places, completions, strict=True)}
            )
        return [list(self._said[example, at].tokens[:tokens]) for example, at, tokens in points]

    def _is_enough(self, example: Example, at: int, tokens: int) -> bool:
        known = self._said.get((example, at), NOTHING)
        return known.ended or len(known.tokens) >= tokens

    def _texts(self, wanted: list[tuple[Example, dict[int, int]]]) -> list[list[Generation]]:
        with eval_mode(self.model):
            return [self._text(example, places) for example, places in wanted]

    def _text(self, example: Example, places: dict[int, int]) -> list[Generation]:
        text = as_text(example, self.tokenizer, max_length=self.max_length)
        counted = text.counted
        cuts = [_Cut(*counted[at], tokens) for at, tokens in places.items()]
        completions: dict[int, Generation] = {}
        for number, piece in enumerate(text.pieces):
            rows = [row for row, cut in enumerate(cuts) if cut.piece == number]
            generated = self._piece(piece.input_ids, [cuts[row] for row in rows]) if rows else []
            completions |= dict(zip(rows, generated, strict=True))
        return [completions[row] for row in range(len(cuts))]

    def _piece(self, ids: list[int], cuts: list[_Cut]) -> list[Generation]:
        # A row holds the whole text that was read and what is added to it.
        read = ids[: max(cut.length for cut in cuts)]
        check_lengths(self.model, [cut.length + cut.tokens for cut in cuts])
        if must_read_whole(self.model, len(read) + max(cut.tokens for cut in cuts)):
            work = partial(self._apart, ids, cuts)
        else:
            work = partial(self._branches, Prefix(self.model, read), cuts)
        generated = self.batches.run([len(read) + cut.tokens for cut in cuts], work)
        return [generated[row] for row in range(len(cuts))]

    def _branches(self, text: Prefix, cuts: Sequence[_Cut], rows: list[int]) -> list[Generation]:
        limits = [cuts[row].tokens for row in rows]
        lengths = [cuts[row].length for row in rows]
        eos_ids = end_tokens(self.model, self.tokenizer)
        return _said(branch(self.model, text, lengths, limits=limits, eos_ids=eos_ids), limits)

    def _apart(self, ids: list[int], cuts: Sequence[_Cut], rows: list[int]) -> list[Generation]:
        limits = [cuts[row].tokens for row in rows]
        answers = greedy(
            self.model,
            [ids[: cuts[row].length] for row in rows],
            max_new_tokens=limits,
            eos_ids=end_tokens(self.model, self.tokenizer),
            is_done=lambda _: False,
        )
        return _said(answers, limits)


def _said(answers: Sequence[Sequence[int]], limits: Sequence[int]) -> list[Generation]:
    return [
        Generation(array("l", tokens), len(tokens) < limit)
        for tokens, limit in zip(answers, limits, strict=True)
    ]
