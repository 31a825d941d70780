"""How a model goes on from inside a text: from before any of its counted tokens, greedily.

The text is read once for all places in it; each place sees the keys and values of what stands before it.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from expunge.model.positions import check_lengths
from expunge.score.batches import Batches
from expunge.score.generate import branch, greedy
from expunge.score.mode import evaluating
from expunge.score.prefix import Prefix, must_read_whole
from expunge.score.ranks import shared
from expunge.score.said import NOTHING, Said, end_tokens
from expunge.score.texts import as_text
from expunge.types import Example


class Fork(NamedTuple):
    """At most ``tokens`` tokens said instead of an example's counted tokens from number ``at`` on."""

    example: Example
    at: int
    tokens: int


class _Cut(NamedTuple):
    """The first ``length`` tokens of a piece of a text, and how many may follow them."""

    piece: int
    length: int
    tokens: int


class Forks:
    """Continuations from inside texts, each generated once."""

    def __init__(self, model: nn.Module, tokenizer: Any, batches: Batches, *, max_length: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batches = batches
        self.max_length = max_length
        self._said: dict[tuple[Example, int], Said] = {}

    def __call__(self, asked: Sequence[Fork]) -> list[list[int]]:
        """The tokens said at each fork, without an end token."""
        wanted: dict[Example, dict[int, int]] = {}
        for example, at, tokens in asked:
            if not self._is_enough(example, at, tokens):
                places = wanted.setdefault(example, {})
                places[at] = max(tokens, places.get(at, 0))
        new = list(wanted.items())
        for (example, places), said in zip(new, shared(new, self._texts), strict=True):
            self._said.update({(example, at): each for at, each in zip(places, said, strict=True)})
        return [list(self._said[example, at].tokens[:tokens]) for example, at, tokens in asked]

    def _is_enough(self, example: Example, at: int, tokens: int) -> bool:
        known = self._said.get((example, at), NOTHING)
        return known.ended or len(known.tokens) >= tokens

    def _texts(self, wanted: list[tuple[Example, dict[int, int]]]) -> list[list[Said]]:
        with evaluating(self.model):
            return [self._text(example, places) for example, places in wanted]

    def _text(self, example: Example, places: dict[int, int]) -> list[Said]:
        text = as_text(example, self.tokenizer, max_length=self.max_length)
        counted = text.counted
        cuts = [_Cut(*counted[at], tokens) for at, tokens in places.items()]
        said: dict[int, Said] = {}
        for number, piece in enumerate(text.pieces):
            rows = [row for row, cut in enumerate(cuts) if cut.piece == number]
            found = self._piece(piece.input_ids, [cuts[row] for row in rows]) if rows else []
            said |= dict(zip(rows, found, strict=True))
        return [said[row] for row in range(len(cuts))]

    def _piece(self, ids: list[int], cuts: list[_Cut]) -> list[Said]:
        # A row holds the whole text that was read and what is added to it.
        read = ids[: max(cut.length for cut in cuts)]
        check_lengths(self.model, [cut.length + cut.tokens for cut in cuts])
        if must_read_whole(self.model, len(read) + max(cut.tokens for cut in cuts)):
            work = partial(self._apart, ids, cuts)
        else:
            work = partial(self._branches, Prefix(self.model, read), cuts)
        found = self.batches.run([len(read) + cut.tokens for cut in cuts], work)
        return [found[row] for row in range(len(cuts))]

    def _branches(self, text: Prefix, cuts: Sequence[_Cut], rows: list[int]) -> list[Said]:
        limits = [cuts[row].tokens for row in rows]
        lengths = [cuts[row].length for row in rows]
        eos_ids = end_tokens(self.model, self.tokenizer)
        return _said(branch(self.model, text, lengths, limits=limits, eos_ids=eos_ids), limits)

    def _apart(self, ids: list[int], cuts: Sequence[_Cut], rows: list[int]) -> list[Said]:
        limits = [cuts[row].tokens for row in rows]
        answers = greedy(
            self.model,
            [ids[: cuts[row].length] for row in rows],
            max_new_tokens=limits,
            eos_ids=end_tokens(self.model, self.tokenizer),
            is_done=lambda _: False,
        )
        return _said(answers, limits)


def _said(answers: Sequence[Sequence[int]], limits: Sequence[int]) -> list[Said]:
    return [
        Said(array("l", tokens), len(tokens) < limit) for tokens, limit in zip(answers, limits, strict=True)
    ]
