"""Social bias: StereoSet and CrowS-Pairs, from their published files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from expunge.corpus.benchmarks.base import Benchmark, BenchmarkSplit
from expunge.corpus.rows import checked_text
from expunge.errors import DataError
from expunge.parsing import load_json
from expunge.types import Example

BENCHMARKS = (
    Benchmark(
        name="stereoset",
        title="StereoSet, within sentences",
        source="StereoSet (arXiv 2004.09456)",
        licence="CC-BY-SA-4.0",
        splits={
            name: (BenchmarkSplit(config="dev", split="dev", reader="stereoset", is_local=True),)
            for name in ("forget", "choices")
        },
        metrics=("stereotype", "meaningful"),
        notes=("Put dev.json of the authors' repository into the folder.",),
    ),
    Benchmark(
        name="crows-pairs",
        title="CrowS-Pairs",
        source="CrowS-Pairs (arXiv 2010.00133)",
        licence="CC-BY-SA-4.0",
        splits={
            name: (
                BenchmarkSplit(
                    config="crows_pairs_anonymized", split="test", reader="crows_pairs", is_local=True
                ),
            )
            for name in ("forget", "choices")
        },
        metrics=("stereotype",),
        notes=(
            "Put crows_pairs_anonymized.csv of the authors' repository into the folder.",
            "Later work found many of its pairs unsound (Blodgett et al. 2021): read single items.",
        ),
    ),
)


# StereoSet and CrowS-Pairs in their own files, as questions with a stereotypical and another answer.
#
# The prompt is what the sentences of a set share at their beginning; where they share nothing it is a line
# break, the same for all of them.

NOTHING_SHARED = "\n"
CROWS = ("sent_more", "sent_less", "stereo_antistereo")


def read_stereoset(path: Path) -> list[Example]:
    """The intrasentence sets of a StereoSet file: stereotype, then anti-stereotype, then unrelated.

    Source: Nadeem et al. 2021 (arXiv 2004.09456); ``dev.json`` as published.

    Raises:
        DataError: the file is not of that form.
    """
    try:
        data = load_json(path.read_bytes())
        examples = list(_stereosets(data["data"]["intrasentence"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _not_of_the_form(
            path, error, '{"data": {"intrasentence": [{"id", "sentences": [{"sentence", "gold_label"}]}]}}'
        ) from error
    return examples


def read_crows_pairs(path: Path) -> list[Example]:
    """The pairs of a CrowS-Pairs file: the stereotypical sentence, then the other one.

    In a pair marked ``antistereo`` it is ``sent_less`` that is stereotypical.
    Source: Nangia et al. 2020 (arXiv 2010.00133); ``crows_pairs_anonymized.csv`` as published.

    Raises:
        DataError: the file is not of that form.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            examples = list(_crows(csv.DictReader(file)))
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise _not_of_the_form(path, error, f"a table with the columns {', '.join(CROWS)}") from error
    return examples


def _stereosets(rows: Sequence[Mapping[str, Any]]) -> Iterator[Example]:
    for row in rows:
        texts = {sentence["gold_label"]: sentence["sentence"] for sentence in row["sentences"]}
        ordered = [texts[label] for label in ("stereotype", "anti-stereotype", "unrelated")]
        yield _example(str(row["id"]), ordered, group=row.get("target"))


def _crows(rows: Iterable[Mapping[str, str]]) -> Iterator[Example]:
    for number, row in enumerate(rows, 1):
        more, less, kind = (row[column] for column in CROWS)
        ordered = [less, more] if kind == "antistereo" else [more, less]
        yield _example(f"pair {number}", ordered, group=None)


def _example(name: str, texts: Sequence[str], group: str | None) -> Example:
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"a sentence of {name!r} is no text")
    for text in texts:
        checked_text(text, "sentence", where=f"item {name!r}")
    shared = _common(texts)
    at = shared.rfind(" ")  # whole words: a word is never cut between prompt and answer
    prompt = shared[:at] if at > 0 else NOTHING_SHARED
    rest = [text[at:] if at > 0 else text for text in texts]
    return Example(id=name, prompt=prompt, completion=rest[0], wrong=tuple(rest[1:]), group=group)


def _common(texts: Sequence[str]) -> str:
    """What all texts begin with, character by character."""
    shared = takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in shared)


def _not_of_the_form(path: Path, error: Exception, form: str) -> DataError:
    reason = f"{type(error).__name__}: {error}"
    return DataError(str(path), why=f"it cannot be read ({reason}).", fix=f"It has to be {form}.")
