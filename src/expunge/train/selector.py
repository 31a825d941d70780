"""Which tokens are sensitive, without an annotator: those that a model not trained on the text misses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from expunge.component import Component
from expunge.corpus.beside import spans_of
from expunge.corpus.boundary import opening
from expunge.corpus.tokenise import completion_tokens, encode
from expunge.errors import DataError, ModelError
from expunge.model.load import load_model, load_tokenizer
from expunge.score.observer import Observer
from expunge.types import Example


class Choice(NamedTuple):
    """An example with the spans that were chosen, and how many of its tokens they are."""

    example: Example
    chosen: int
    tokens: int


class Selector(Component):
    """Tokens less probable than ``below`` under ``reference``, and more by ``gain`` nats under the model.

    ``reference`` is the folder of a checkpoint that did not memorise the text: the model before
    fine-tuning, or a smaller one of the same family. It has to cut texts into the same tokens.

    Source: the online selection of Wang et al. 2025 (SeUL, arXiv 2402.05813), in this package's reading: a
    threshold on probability, of a reference instead of the memorising model itself, to which every token
    of what it knows by heart is likely.
    """

    reference: Path
    below: Annotated[float, Field(gt=0, le=1)] = 0.3
    gain: NonNegativeFloat = 0.0

    def check(self) -> None:
        """Refuse a reference that is not there, before anything is loaded."""
        if not self.reference.is_dir():
            raise ModelError(
                f"reference {self.reference}",
                why="there is no such folder.",
                fix="Give the folder of a checkpoint that was not trained on the forget set.",
            )

    def __call__(
        self, model: nn.Module, tokenizer: Any, examples: Sequence[Example], *, max_length: int
    ) -> list[Choice]:
        """Every example with its spans chosen anew; the reference is in memory only until then.

        Raises:
            ModelError: the reference has another tokenizer.
            DataError: it finds none of the tokens unlikely.
        """
        bare = [replace(example, spans=()) for example in examples]
        known = _logps(model, tokenizer, bare, max_length)
        reference = load_model(self.reference)
        theirs = load_tokenizer(self.reference, model=reference)
        for example in bare:
            if _ids(example, tokenizer) != _ids(example, theirs):
                raise ModelError(
                    f"reference {self.reference}",
                    why="it cuts texts into other tokens than the model, so theirs cannot be compared.",
                    fix="Give a checkpoint of the same family, or annotate spans ('expunge annotate').",
                )
        unread = _logps(reference.to(next(model.parameters()).device), tokenizer, bare, max_length)
        found = [
            self._chosen(example, tokenizer, own_n, other_n, max_length)
            for example, own_n, other_n in zip(bare, known, unread, strict=True)
        ]
        if not any(choice.chosen for choice in found):
            raise DataError(
                "no token was chosen",
                why=f"the reference gives every token at least {self.below:g}, or the model less.",
                fix="Raise select.below, lower select.gain, or give a reference that never saw the texts.",
            )
        return found

    def _chosen(
        self, example: Example, tokenizer: Any, known_n: Tensor, unread_n: Tensor, max_length: int
    ) -> Choice:
        tokens = completion_tokens(example, tokenizer)
        flags_n = (unread_n < math.log(self.below)) & (known_n - unread_n > self.gain)
        chosen = [False] * len(tokens.ids)
        for place, flag in zip(_places(example, tokenizer, max_length), flags_n.tolist(), strict=True):
            chosen[place] = flag
        spans = spans_of(tokens.offsets or [], chosen)
        return Choice(replace(example, spans=spans), sum(chosen), len(chosen))


def _logps(model: nn.Module, tokenizer: Any, examples: Sequence[Example], max_length: int) -> list[Tensor]:
    observed = Observer(model, tokenizer, max_length=max_length)
    return [facts.text.logp_n for facts in observed.facts(examples)]


def _ids(example: Example, tokenizer: Any) -> list[int]:
    return completion_tokens(example, tokenizer).ids


def _places(example: Example, tokenizer: Any, max_length: int) -> list[int]:
    """Which token of the completion each counted one is: without BOS the first of a piece is none."""
    if not example.is_document:
        return list(range(len(_ids(example, tokenizer))))
    head, start, places = len(opening(tokenizer)), 0, []
    for piece in encode(example, tokenizer, max_length=max_length):
        places += [start + at - head for at, counts in enumerate(piece.mask) if counts]
        start += len(piece.input_ids) - head
    return places
