"""The text an audit calibrates quantizers on, which must not be text it evaluates on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from expunge.corpus.readers import read_examples
from expunge.errors import DataError, RecipeError
from expunge.quant.calibration import SELF, CalibrationSource, text_of_file, unread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from expunge.metrics.probes import Probes
    from expunge.quant.base import Quantizer
    from expunge.types import Example

LONG = 32
"""Characters from which on a text that occurs inside another counts as the same text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationChoice:
    """The calibration text for quantizers that need one.

    ``word``: ``self``, ``retain``, ``forget`` or a file of other text; ``None`` means ``self``, the only
    text that is always there and never what is evaluated on.
    """

    word: str | None = None
    samples: int = 128
    length: int = 512
    allow_overlap: bool = False

    def source(
        self,
        quantizers: Iterable[Quantizer],
        probes: Probes,
        files: Mapping[str, str],
        *,
        columns: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> CalibrationSource | None:
        """Where the text comes from; ``None`` if no quantizer reads any. ``files``: of each split.

        Raises:
            RecipeError: a split without a file is named, or text that no quantizer reads.
            DataError: the file cannot be read, or its text is evaluated on.
        """
        if not any(quantizer.calibrated for quantizer in quantizers):
            if self.word is None:
                return None
            raise unread(self.word)
        name, texts = self._read(files, columns)
        source = CalibrationSource(
            name=name, texts=texts, samples=self.samples, length=self.length, seed=seed
        )
        if not self.allow_overlap:
            refuse_overlap(source, probes)
        return source

    def _read(
        self, files: Mapping[str, str], columns: Mapping[str, str] | None
    ) -> tuple[str, tuple[Example, ...]]:
        word = self.word or SELF
        if word == SELF:
            return SELF, ()
        if word not in ("retain", "forget"):
            return text_of_file(word, columns)
        if word not in files:
            raise RecipeError(
                f"--calibrate {word}",
                why=f"the audit has no {word} set.",
                fix=f"Add --{word} FILE, or calibrate on self or on a file of other text.",
            )
        return word, tuple(read_examples(files[word], fields=columns))


def refuse_overlap(source: CalibrationSource, probes: Probes) -> None:
    """Refuse calibration text that is evaluated on, other than as the corpus it was declared to be.

    Case and white space do not count. Texts of 32 characters or more count wherever they occur.

    Raises:
        DataError: naming the split and one of the texts.
    """
    seen = _Texts(source.texts)
    for split in (spec.name for spec in fields(probes)):
        if split in (source.name, f"{source.name}_icl"):
            continue
        for example in probes.split(split):
            if seen.hold(example):
                raise DataError(
                    f"calibration text {source.name}",
                    why=f"{_start(example)!r} is also in the evaluated split {split}; the quantizer would "
                    "be fitted to its own test data.",
                    fix="Calibrate on self or on other text, or pass --allow-overlap.",
                )


class _Texts:
    """Texts to search for another one: equal to it, contained in it, or containing it."""

    def __init__(self, texts: Iterable[Example]) -> None:
        self.known = {_plain(text) for text in texts}
        self.long = [text for text in self.known if len(text) >= LONG]
        self.together = "\n".join(self.long)

    def hold(self, example: Example) -> bool:
        """Whether ``example`` is one of the texts."""
        text = _plain(example)
        if text in self.known:
            return True
        return len(text) >= LONG and (text in self.together or any(known in text for known in self.long))


def _plain(example: Example) -> str:
    return " ".join(example.text.casefold().split())


def _start(example: Example) -> str:
    return f"{example.text[:40]}…" if len(example.text) > 40 else example.text
