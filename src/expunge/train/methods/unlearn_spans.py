"""Selective forgetting (SeUL): the sensitive spans are unlearned, the rest is kept."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from expunge.component import Component
from expunge.corpus.batching import PairDataset
from expunge.corpus.boundary import opening
from expunge.corpus.spans import touched
from expunge.corpus.tokenise import completion_tokens, encode
from expunge.errors import DataError, ModelError
from expunge.files import write_text
from expunge.inference.observer import Observer
from expunge.model.load import load_model, load_tokenizer
from expunge.model.precision import prepare_weights
from expunge.model.resources import best_device
from expunge.train.methods import DataNeed, stages
from expunge.train.methods.unlearn import Unlearn
from expunge.train.run.state import Corpus, State
from expunge.types import Example, Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def span_complement(example: Example, tokenizer: PreTrainedTokenizerBase) -> Example | None:
    """The same text with the other tokens marked instead; ``None`` where there are none, or no spans.

    Encoded, no token counts in both, and every token of the completion in one of them.

    Raises:
        DataError: the tokenizer does not report the characters of a token.
    """
    if not example.spans:
        return None
    offsets = completion_tokens(example, tokenizer).offsets or []
    spans = spans_of(offsets, [not inside for inside in touched(offsets, example.spans)])
    return replace(example, id=f"{example.id}/beside", spans=spans) if spans else None


def spans_of(offsets: Sequence[tuple[int, int]], chosen: Sequence[bool]) -> tuple[Span, ...]:
    """The characters of the chosen tokens; those of tokens in a row are one span."""
    complement = []
    places = range(len(offsets))
    for taken, row in groupby(places, key=lambda index: chosen[index]):
        row_offsets = [offsets[index] for index in row]
        start, end = min(row_offsets)[0], max(end for _, end in row_offsets)
        if taken and start < end:
            complement.append(Span(start, end))
    return tuple(complement)


class SelectedSpans(NamedTuple):
    """An example with the spans that were chosen, and how many of its tokens they are."""

    example: Example
    chosen: int
    tokens: int


class Selector(Component):
    """Chooses tokens that are improbable under a reference, and more probable under the model.

    Source: the online selection of Wang et al. 2025 (SeUL, arXiv 2402.05813), in this package's reading: a
    threshold on probability, of a reference instead of the memorising model itself, to which every token
    of what it knows by heart is likely.
    """

    reference: Path = Field(
        description=(
            "Folder of a checkpoint that did not memorise the text and has the same tokens: the model "
            "before fine-tuning, or a smaller one of its family."
        )
    )
    below: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.3,
        description=(
            "Tokens with a lower probability than this under the reference are chosen; above 0, at most 1."
        ),
    )
    gain: NonNegativeFloat = Field(
        default=0.0,
        description=(
            "By how many nats the model must give them a higher log-probability than the reference does."
        ),
    )

    def check(self) -> None:
        """Refuse a reference that is not there, before anything is loaded."""
        if not self.reference.is_dir():
            raise ModelError(
                f"reference {self.reference}",
                why="there is no such folder.",
                fix="Pass the folder of a checkpoint that was not trained on the forget set.",
            )

    def __call__(
        self, model: nn.Module, tokenizer: Any, examples: Sequence[Example], *, max_length: int
    ) -> list[SelectedSpans]:
        """Every example with newly selected spans; the reference is freed afterwards.

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
                    why="its tokenizer differs from the model's, so tokens cannot be compared.",
                    fix="Pass a checkpoint of the same family, or annotate spans ('expunge annotate').",
                )
        unread = _logps(reference.to(next(model.parameters()).device), tokenizer, bare, max_length)
        selected = [
            self._chosen(example, tokenizer, own_n, other_n, max_length)
            for example, own_n, other_n in zip(bare, known, unread, strict=True)
        ]
        if not any(choice.chosen for choice in selected):
            raise DataError(
                "no token was selected",
                why=f"the reference gives every token at least {self.below:g}, or the model gives it less.",
                fix="Raise select.below, lower select.gain, or use a reference that never saw the texts.",
            )
        return selected

    def _chosen(
        self, example: Example, tokenizer: Any, known_n: Tensor, unread_n: Tensor, max_length: int
    ) -> SelectedSpans:
        tokens = completion_tokens(example, tokenizer)
        flags_n = (unread_n < math.log(self.below)) & (known_n - unread_n > self.gain)
        chosen = [False] * len(tokens.ids)
        for index, flag in zip(_places(example, tokenizer, max_length), flags_n.tolist(), strict=True):
            chosen[index] = flag
        spans = spans_of(tokens.offsets or [], chosen)
        return SelectedSpans(replace(example, spans=spans), sum(chosen), len(chosen))


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


# Selective forgetting (SeUL): the sensitive spans go, the text around them stays.

SELECTION = "selection.jsonl"
"""In the output folder: which characters of which example were chosen. Never the text itself."""


@stages.register("unlearn_spans")
class UnlearnSpans(Unlearn):
    """As ``unlearn``, on the spans of the forget set; texts without a span are left out.

    Source: Wang et al. 2025 (SeUL, arXiv 2402.05813); retaining the text around spans is ours.
    """

    select: Selector | None = Field(
        default=None, description="How spans are chosen when the run begins; null: they come with the data."
    )
    beside: bool = Field(
        default=True,
        description=(
            "Whether, with a retain loss, the text around the spans is kept together with the retain set."
        ),
    )

    @property
    def needs(self) -> frozenset[DataNeed]:
        spans: frozenset[DataNeed] = frozenset(() if self.select else {"spans"})
        without = {"retain"} if self.beside and not self.scope.needs_retain else set()
        return spans | (super().needs - without)

    def check(self, corpus: Corpus) -> None:
        """Refuse a forget set without spans, and what ``unlearn`` refuses."""
        stand_in = corpus.forget if self.beside and not self.scope.needs_retain else ()
        super().check(replace(corpus, retain=corpus.retain or stand_in))
        if self.select is not None:
            self.select.check()
        elif not any(example.spans for example in corpus.forget):
            raise DataError(
                "a forget set without spans",
                why="selective forgetting forgets marked spans only, and none is marked.",
                fix="Mark them ('expunge annotate'), or have them selected: --set select.reference=FOLDER.",
            )

    def run(self, state: State) -> State:
        """Find the spans, then unlearn them."""
        forget = state.corpus.forget
        if self.select is not None:
            state.model = prepare_weights(state.model, self.precision, device=best_device())
            choices = self.select(state.model, state.tokenizer, forget, max_length=self.max_length)
            forget = tuple(choice.example for choice in choices)
            state.extra_outputs.append(partial(_write, choices))
        marked = tuple(example for example in forget if example.spans)
        if len(marked) < len(forget):
            state.warn(f"{len(forget) - len(marked)} of {len(forget)} texts have no span and are left out.")
        part = replace(state, corpus=replace(state.corpus, forget=marked), facts=[])
        state.model = super().run(part).model
        state.facts.append(part.facts[0] | {"stage": "unlearn_spans"} | _facts(marked, len(forget)))
        return state

    def _encode(self, state: State) -> PairDataset:
        data = super()._encode(state)
        if self.retain is not None and self.beside:
            complements = (span_complement(example, state.tokenizer) for example in state.corpus.forget)
            data.retain.extend(
                self.encode((example for example in complements if example is not None), state)
            )
            if not data.retain:
                raise DataError(
                    "no text around the spans",
                    why="the retain loss has no tokens: every text is marked from start to end.",
                    fix="Pass --retain FILE, or set retain=null.",
                )
        return data


def _facts(marked: Sequence[Example], texts: int) -> dict[str, Any]:
    lengths = [end - start for example in marked for start, end in example.spans]
    return {
        "texts_left_out": texts - len(marked),
        "spans": len(lengths),
        "span_characters": sum(lengths),
        "characters": sum(len(example.completion) for example in marked),
    }


def _write(choices: Sequence[SelectedSpans], folder: Path) -> None:
    rows = [
        {
            "id": choice.example.id,
            "spans": [list(span) for span in choice.example.spans],
            "chosen_tokens": choice.chosen,
            "tokens": choice.tokens,
        }
        for choice in choices
    ]
    write_text(folder / SELECTION, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
