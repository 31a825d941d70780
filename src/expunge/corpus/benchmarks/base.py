"""What a benchmark is: where each split is, what is measured of it, and what was published.

A description only: nothing is read before ``load``. The parts of a benchmark lie under the same names in
a dataset of the Hub (``config`` and ``split``) and in a local folder: ``config/split.jsonl``, or
``config.jsonl`` where the configuration has one split. Other endings (.json, .csv, .parquet) will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import field_validator

from expunge.component import Component
from expunge.corpus.columns import QUESTION

Reader = Literal["rows", "stereoset", "crows_pairs"]


class BenchmarkSplit(Component):
    """Rows of one configuration and split: which column holds which field, and how a question is asked.

    ``hub`` and ``revision`` where they lie in another dataset than the benchmark's own; ``is_local`` where
    no dataset of the Hub has them at a commit that is known, and a folder must. ``reader`` where the file
    has a form of its own.
    """

    config: str
    split: str
    fields: Mapping[str, str] = {}
    template: str = QUESTION
    hub: str | None = None
    revision: str | None = None
    is_local: bool = False
    reader: Reader = "rows"


class Published(Component):
    """Numbers that a paper or a repository reports of one model: by metric, in the metric's own scale.

    ``method`` is ``target``, ``retrained`` or what unlearned; ``model`` what it started from.
    """

    method: str
    model: str
    values: Mapping[str, float]
    source: str


class Benchmark(Component):
    """A benchmark as data.

    ``splits`` are the evaluation splits by their names in ``Probes``, each of one or more parts.
    ``corpora`` is what is trained on: ``forget`` and ``retain``. ``metrics`` are names, or mappings with a
    name and settings. ``revision`` is a commit of the dataset ``hub``, so that it cannot change
    underneath; a benchmark without ``hub`` is a form for one's own data. ``models`` are published
    checkpoints by role, each ``name@commit``.
    """

    name: str
    title: str
    source: str
    licence: str
    splits: Mapping[str, tuple[BenchmarkSplit, ...]]
    metrics: tuple[str | Mapping[str, Any], ...]
    corpora: Mapping[str, tuple[BenchmarkSplit, ...]] = {}
    optional: frozenset[str] = frozenset()
    hub: str | None = None
    revision: str | None = None
    models: Mapping[str, str] = {}
    published: tuple[Published, ...] = ()
    notes: tuple[str, ...] = ()

    @field_validator("revision")
    @classmethod
    def _whole_commit(cls, revision: str | None) -> str | None:
        if revision is not None and len(revision) != 40:
            raise ValueError("the Hub takes a commit by its whole hash only")
        return revision
