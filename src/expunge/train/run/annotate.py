"""From a file of examples to the same file with sensitive spans marked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from expunge.corpus.annotate import Annotator, Finding, Marked, masked, merged
from expunge.corpus.formats import write_examples
from expunge.corpus.readers import read_examples
from expunge.errors import DataError
from expunge.files import anything, claim_file, nothing
from expunge.model.load import load_model, load_tokenizer
from expunge.train.methods.unlearn_spans import SelectedSpans, Selector
from expunge.types import Example

CHOSEN = "chosen"
"""The kind of what a reference did not expect."""
SHOWN = 3


class KindCount(NamedTuple):
    """One kind: how often it was found, and the form of a few findings."""

    kind: str
    found: int
    forms: tuple[str, ...]


class AnnotationSummary(NamedTuple):
    """The marked spans by kind, and how many examples have a span."""

    rows: tuple[KindCount, ...]
    with_spans: int
    examples: int


@dataclass(frozen=True, kw_only=True)
class AnnotateJob:
    """Marking spans by format, by a reference, or by both.

    With ``selector`` the tokens that ``model`` knows and the reference does not are marked too.
    """

    source: str
    output: Path
    annotator: Annotator | None = None
    selector: Selector | None = None
    model: str | None = None
    max_length: int = 2048
    fields: Mapping[str, str] | None = None
    overwrite: bool = False

    def run(self) -> AnnotationSummary:
        """Read, mark and write; the source is never written to.

        Raises:
            OutputError: the output is there already, or is the source itself.
            DataError: the source cannot be read, or a reference is given without a model.
        """
        claim_file(self.output, source=self.source, overwrite=self.overwrite)
        examples = read_examples(self.source, fields=self.fields)
        marked = (
            self.annotator(examples) if self.annotator else [Marked(example, ()) for example in examples]
        )
        if self.selector is not None:
            marked = [
                _both(one, choice) for one, choice in zip(marked, self._chosen(examples), strict=True)
            ]
        may_replace = anything if self.overwrite else nothing
        write_examples(self.output, [one.example for one in marked], may_replace=may_replace)
        return summarise(marked)

    def _chosen(self, examples: Sequence[Example]) -> list[SelectedSpans]:
        if self.selector is None or self.model is None:
            raise DataError(
                "a reference without a model",
                why="tokens are selected where a model that knows the text differs from one that does not.",
                fix="Pass both --model and --reference.",
            )
        self.selector.check()
        model = load_model(self.model)
        tokenizer = load_tokenizer(self.model, model=model)
        return self.selector(model, tokenizer, examples, max_length=self.max_length)


def _both(marked: Marked, choice: SelectedSpans) -> Marked:
    spans = merged((*marked.example.spans, *choice.example.spans))
    chosen = tuple(Finding(CHOSEN, span) for span in choice.example.spans)
    return Marked(replace(marked.example, spans=spans), (*marked.findings, *chosen))


def summarise(marked: Sequence[Marked]) -> AnnotationSummary:
    """What was found, the commonest kind first; its texts are masked."""
    forms: dict[str, list[str]] = defaultdict(list)
    for one in marked:
        for kind, (start, end) in one.findings:
            forms[kind].append(masked(one.example.completion[start:end]))
    rows = [
        KindCount(kind, len(examples_of_kind), tuple(dict.fromkeys(examples_of_kind))[:SHOWN])
        for kind, examples_of_kind in sorted(forms.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    return AnnotationSummary(tuple(rows), sum(bool(one.example.spans) for one in marked), len(marked))
