"""Selective forgetting (SeUL): the sensitive spans go, the text around them stays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from expunge.corpus.beside import beside_spans
from expunge.corpus.streams import PairDataset
from expunge.errors import DataError
from expunge.files import write_text
from expunge.model.device import best_device
from expunge.model.precision import prepare_weights
from expunge.train.selector import Choice, Selector
from expunge.train.stages import DataNeed, stages
from expunge.train.stages.unlearn import Unlearn
from expunge.train.state import Corpus, State
from expunge.types import Example

SELECTION = "selection.jsonl"
"""In the output folder: which characters of which example were chosen. Never the text itself."""


@stages.register("unlearn_spans")
class UnlearnSpans(Unlearn):
    """As ``unlearn``, on the spans of the forget set; texts without a span are left out.

    Spans come with the data, or are chosen when the run begins by what ``select`` compares. With a retain
    loss, what stands ``beside`` the spans in the same texts is kept, together with the retain set.

    Source: Wang et al. 2025 (SeUL, arXiv 2402.05813); keeping what stands beside is ours.
    """

    select: Selector | None = None
    beside: bool = True

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
                why="selective forgetting takes out marked spans only, and none is marked.",
                fix="Mark them ('expunge annotate'), or have them chosen: --set select.reference=FOLDER.",
            )

    def run(self, state: State) -> State:
        """Find the spans, then unlearn them."""
        forget = state.corpus.forget
        if self.select is not None:
            state.model = prepare_weights(state.model, self.precision, device=best_device())
            choices = self.select(state.model, state.tokenizer, forget, max_length=self.max_length)
            forget = tuple(choice.example for choice in choices)
            state.keepsakes.append(partial(_write, choices))
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
            found = (beside_spans(example, state.tokenizer) for example in state.corpus.forget)
            data.retain.extend(self._sequences(state, [each for each in found if each is not None]))
            if not data.retain:
                raise DataError(
                    "nothing stands beside the spans",
                    why="the retain loss has nothing to keep: every text is marked from end to end.",
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


def _write(choices: Sequence[Choice], folder: Path) -> None:
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
