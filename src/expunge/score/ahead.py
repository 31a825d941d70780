"""Prompts that will be continued, found again as the beginnings of documents that are read first.

Whoever reads such a document reads its beginning: it is gone on with while its keys and values are there.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from expunge.corpus.tokenise import Encoded, encode_prompt
from expunge.model.positions import learned_positions
from expunge.score.batches import Batches
from expunge.score.facts import TokenFacts
from expunge.score.onward import Both, Onward, read_onward
from expunge.score.prefix import must_read_whole
from expunge.score.said import Said, as_example, end_tokens
from expunge.score.texts import Text, read_texts


class Found(NamedTuple):
    """What a model says of a text, and the prompt it begins with and what is said to that, if expected."""

    facts: TokenFacts
    said: tuple[str, Said] | None


class Ahead:
    """Reads texts, and goes on with those that begin with an expected prompt."""

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._tokens: dict[str, int] = {}

    def expect(self, prompts: Sequence[str], tokens: int) -> None:
        """These prompts will be continued by so many tokens."""
        for prompt in prompts:
            self._tokens[prompt] = max(tokens, self._tokens.get(prompt, 0))

    def read(
        self, texts: Sequence[Text], documents: Sequence[str | None], *, pad_id: int, batches: Batches
    ) -> list[Found]:
        """Every text once. ``documents`` are the words of those that are nothing but text."""
        begun = {}
        for place, (text, words) in enumerate(zip(texts, documents, strict=True)):
            prompt = None if words is None else self._beginning(words)
            onward = None if prompt is None else self._onward(prompt, text.pieces[0])
            if prompt is not None and onward is not None:
                begun[place] = (prompt, onward)
        read = read_onward(
            self.model,
            [onward for _, onward in begun.values()],
            pad_id=pad_id,
            eos_ids=end_tokens(self.model, self.tokenizer),
            batches=batches,
        )
        both = dict(zip(begun, read, strict=True))
        known = {place: each.looked for place, each in both.items()}
        facts = read_texts(self.model, texts, pad_id=pad_id, batches=batches, known=known)
        said = {place: (prompt, _said(both[place], onward)) for place, (prompt, onward) in begun.items()}
        return [Found(each, said.get(place)) for place, each in enumerate(facts)]

    def _beginning(self, words: str) -> str | None:
        """The longest expected prompt that a document begins with."""
        return max((each for each in self._tokens if words.startswith(each)), key=len, default=None)

    def _onward(self, prompt: str, piece: Encoded) -> Onward | None:
        """How a piece is gone on with; ``None`` if it does not begin with the prompt's very tokens."""
        ids, tokens = encode_prompt(as_example(prompt), self.tokenizer), self._tokens[prompt]
        room, longest = learned_positions(self.model), len(piece.input_ids) + tokens
        has_room = room is None or len(ids) + tokens <= room
        if piece.input_ids[: len(ids)] != ids or not has_room or must_read_whole(self.model, longest):
            return None
        return Onward(piece, len(ids), tokens)


def _said(both: Both, onward: Onward) -> Said:
    return Said(array("l", both.said), ended=len(both.said) < onward.tokens)
