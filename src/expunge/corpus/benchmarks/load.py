"""A benchmark's splits as examples, from a local folder or from the Hub at the pinned commit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from expunge.corpus.benchmarks.bias import read_crows_pairs, read_stereoset
from expunge.corpus.formats import READERS
from expunge.corpus.readers import read_examples
from expunge.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from expunge.corpus.benchmarks.base import Benchmark, BenchmarkSplit
    from expunge.types import Example


OWN_FORMS: Mapping[str, Callable[[Path], list[Example]]] = {
    "stereoset": read_stereoset,
    "crows_pairs": read_crows_pairs,
}
"""How files are read that are no rows with one example each."""


def load_splits(benchmark: Benchmark, folder: Path | None = None) -> dict[str, list[Example]]:
    """The evaluation splits. Without a ``folder`` they come from the Hub.

    Raises:
        DataError: a part is missing, or lacks a field.
        MissingExtraError: the Hub is wanted and the extra ``hub`` is not installed.
    """
    return _load(benchmark, benchmark.splits, folder)


def load_corpora(benchmark: Benchmark, folder: Path | None = None) -> dict[str, list[Example]]:
    """What is trained on, as ``load_splits``."""
    return _load(benchmark, benchmark.corpora, folder)


def _load(
    benchmark: Benchmark, wanted: Mapping[str, tuple[BenchmarkSplit, ...]], folder: Path | None
) -> dict[str, list[Example]]:
    if folder is None:
        return {
            split: [example for part in parts for example in _from_hub(benchmark, part)]
            for split, parts in wanted.items()
            if split not in benchmark.optional or not any(part.is_local for part in parts)
        }
    if not folder.is_dir():
        raise DataError(f"--data {folder}", why="there is no such folder.", fix="Check the path.")
    examples: dict[str, list[Example]] = {}
    for split, parts in wanted.items():
        places = [(part, _place(folder, part)) for part in parts]
        missing = [part for part, path in places if path is None]
        if missing and split in benchmark.optional:
            continue
        if missing:
            raise _missing(benchmark, split, missing[0], folder)
        examples[split] = [
            example for part, path in places if path is not None for example in _read(part, path)
        ]
    return examples


def _place(folder: Path, part: BenchmarkSplit) -> Path | None:
    """Where a part is: a file, or the folder of its configuration."""
    files = [f"{part.config}/{part.split}", part.config]
    named = (folder / f"{stem}{ending}" for stem in files for ending in READERS)
    file = next((path for path in named if path.is_file()), None)
    if file is not None:
        return file
    inside = folder / part.config
    return inside if inside.is_dir() and any(inside.glob(f"{part.split}-*")) else None


def _read(part: BenchmarkSplit, path: Path) -> list[Example]:
    if part.reader != "rows":
        return OWN_FORMS[part.reader](path)
    split = part.split if path.is_dir() else None
    return read_examples(path, fields=part.fields, template=part.template, split=split)


def _from_hub(benchmark: Benchmark, part: BenchmarkSplit) -> list[Example]:
    name, revision = part.hub or benchmark.hub, part.revision or benchmark.revision
    if name is None or revision is None or part.is_local:
        raise DataError(
            f"benchmark {benchmark.name} without a folder",
            why=f"the Hub does not give its {part.config} to everybody.",
            fix=f"Pass --data FOLDER with {', '.join(sorted(_names(benchmark)))}.",
        )
    return read_examples(
        f"{name}@{revision}",
        fields=part.fields,
        template=part.template,
        config=part.config,
        split=part.split,
    )


def _names(benchmark: Benchmark) -> set[str]:
    parts = (
        part for split, own in benchmark.splits.items() if split not in benchmark.optional for part in own
    )
    return {f"{part.config}.jsonl" for part in parts}


def _missing(benchmark: Benchmark, split: str, part: BenchmarkSplit, folder: Path) -> DataError:
    wanted = f"{part.config}/{part.split}.jsonl or {part.config}.jsonl"
    fix = f"Put it there; other endings are read too: {', '.join(READERS)}."
    if benchmark.hub is not None:
        fix += f" The original is {part.hub or benchmark.hub} on the Hub."
    return DataError(
        str(folder),
        why=f"{benchmark.name} takes its {split} split from {wanted}, which is not there.",
        fix=fix,
    )
