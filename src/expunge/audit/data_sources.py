"""The data of an audit: files by split, a folder of them, or a benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.corpus.benchmarks import benchmark
from expunge.corpus.benchmarks.load import load_splits
from expunge.corpus.readers import read_examples
from expunge.corpus.sampling import sample
from expunge.errors import DataError, RecipeError
from expunge.metrics.probes import Probes

if TYPE_CHECKING:
    from expunge.corpus.benchmarks.base import Benchmark
    from expunge.types import Example

SPLITS = tuple(split.name for split in fields(Probes))
SOLVED = ("forget_icl", "retain_icl")
"""Few-shot splits: these are prompts, not items, so ``max_items`` does not apply to them."""

MAX_ITEMS = 100
"""Default number of examples per split; of a benchmark, all are used."""


@dataclass(frozen=True, kw_only=True)
class DataSources:
    """Where the splits come from. A file named for a split takes precedence over the benchmark's.

    ``files`` names a file for each split; ``folder`` holds ``<split>.jsonl`` for those not named.
    ``benchmark`` lies in the folder ``data``, or on the Hub. At most ``max_items`` examples of a split are
    asked, drawn by ``seed``.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    benchmark: str | None = None
    data: Path | None = None
    columns: Mapping[str, str] | None = None
    max_items: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.data is not None and self.benchmark is None:
            raise RecipeError(
                f"--data {self.data}",
                why="it is the folder of a benchmark, and none is named.",
                fix="Add --benchmark NAME, or pass your own splits with --probes FOLDER.",
            )
        if self.folder is not None and not self.folder.is_dir():
            raise DataError(
                f"--probes {self.folder}", why="there is no such folder.", fix="Check the path."
            )

    @property
    def metrics(self) -> tuple[str | Mapping[str, Any], ...]:
        """The benchmark's metrics; none without one."""
        return () if self._benchmark is None else self._benchmark.metrics

    def probes(self) -> Probes:
        """Read every split and draw its examples.

        Raises:
            DataError: a file or a part of the benchmark cannot be read, or there is no forget set.
        """
        known = self._benchmark
        found = {} if known is None else load_splits(known, self.data)
        found |= {split: read_examples(file, fields=self.columns) for split, file in self.named().items()}
        if not found.get("forget"):
            raise DataError(
                "an audit without a forget set",
                why="there is nothing to ask the model about.",
                fix="Pass --forget FILE, --probes FOLDER with a forget.jsonl in it, or --benchmark NAME.",
            )
        return Probes(**{split: self._some(split, examples) for split, examples in found.items()})

    def named(self) -> dict[str, str]:
        """The files that were named for a split."""
        files = {split: self.files.get(split) or self._in_folder(split) for split in SPLITS}
        return {split: file for split, file in files.items() if file}

    def sources(self) -> dict[str, str]:
        """Where each split comes from, for display."""
        known = self._benchmark
        if known is None:
            return self.named()
        location = f"{known.hub}@{known.revision}" if self.data is None else str(self.data)
        return dict.fromkeys(known.splits, f"{known.name}: {location}") | self.named()

    @property
    def _benchmark(self) -> Benchmark | None:
        return None if self.benchmark is None else benchmark(self.benchmark)

    def _some(self, split: str, examples: Sequence[Example]) -> tuple[Example, ...]:
        if split in SOLVED:
            return tuple(examples)
        count = self.max_items
        if count is None:
            count = MAX_ITEMS if self.benchmark is None else len(examples)
        return sample(examples, count, seed=self.seed, name=split)

    def _in_folder(self, split: str) -> str | None:
        if self.folder is None:
            return None
        path = self.folder / f"{split}.jsonl"
        return str(path) if path.is_file() else None
