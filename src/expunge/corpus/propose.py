"""Anchored terms proposed from the texts themselves, for their owner to look through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from expunge.corpus.anchors import Anchors
from expunge.corpus.names import Kind, names_by_language, names_by_rule
from expunge.corpus.readers import read_examples
from expunge.corpus.stand_ins import stand_ins
from expunge.errors import DataError
from expunge.files import anything, claim_file, nothing, write_json


class Proposal(NamedTuple):
    """A term, what it is a name of, how often it is replaced, and by what."""

    term: str
    kind: Kind
    times: int
    replacement: str


@dataclass(frozen=True, kw_only=True)
class ProposeJob:
    """Proposing anchored terms, as it is asked for on the command line.

    ``spacy`` names a spaCy model that is installed, or its folder; without one, names are runs of
    capitalised words (``expunge.corpus.names``). Names found less often than ``at_least`` are left out.
    Replacements are drawn by ``seed``.
    """

    source: str
    output: Path
    spacy: str | None = None
    at_least: int = 2
    seed: int = 0
    fields: Mapping[str, str] | None = None
    overwrite: bool = False

    def run(self) -> list[Proposal]:
        """Write the terms and their replacements as a JSON object, the commonest first; returns them.

        Counts are of what the stage ``relabel`` will replace: of two terms, the longer one.

        Raises:
            OutputError: the output is there already, or is the source itself.
            DataError: the source cannot be read, or no name is found in it.
        """
        claim_file(self.output, source=self.source, overwrite=self.overwrite)
        examples = read_examples(self.source, fields=self.fields)
        texts = [text for one in examples for text in (one.prompt, one.completion) if text]
        names = names_by_language(texts, self.spacy) if self.spacy else names_by_rule(texts)
        names = [name for name in names if name.times >= self.at_least]
        if not names:
            raise DataError(
                f"no names in {self.source}",
                why=f"nothing that looks like one is found {self.at_least} times or more.",
                fix="Lower --at-least, try another spaCy model (--spacy), or write the file by hand.",
            )
        replacements = stand_ins(names, seed=self.seed)
        anchors = Anchors(replacements)
        counts = Counter(part.term for text in texts for part in anchors.translate(text).segments)
        found = [
            Proposal(name.text, name.kind, counts[name.text], replacements[name.text]) for name in names
        ]
        found.sort(key=lambda one: (-one.times, one.term))
        write_json(
            self.output,
            {one.term: one.replacement for one in found},
            may_replace=anything if self.overwrite else nothing,
        )
        return found
