"""Build and run an audit from the paths, names and data files that a user passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.attacks import parse_attack
from expunge.audit.run import served
from expunge.audit.run.calibrate import CalibrationChoice
from expunge.audit.run.diagnose import Checkpoint, diagnose
from expunge.audit.run.grid import Audit, no_progress
from expunge.audit.run.loaded import parse_seeds, recorded_seeds, sources_of
from expunge.audit.run.missing_inputs import name_in, select_metrics
from expunge.audit.run.plan import AuditPlan, ModelSource, Role, every_condition
from expunge.audit.summary import AuditSummary
from expunge.corpus.benchmarks import benchmark
from expunge.corpus.benchmarks.load import load_splits
from expunge.corpus.checks import reading_warnings
from expunge.corpus.readers import read_examples, sample
from expunge.errors import DataError, ModelError, OutputError, RecipeError
from expunge.files import RECORD, claiming, local_folder, require_writable
from expunge.inference.served.endpoint import Endpoint, Serving, is_endpoint, parse_endpoint
from expunge.metrics.probes import Probes
from expunge.model.checkpoint import require_checkpoint
from expunge.model.load import load_tokenizer
from expunge.model.resources import memory_errors
from expunge.quant import parse_quantizer
from expunge.record import hash_folder, hash_json
from expunge.types import Example

if TYPE_CHECKING:
    from expunge.corpus.benchmarks.base import Benchmark


SPLITS = tuple(split.name for split in fields(Probes))
SOLVED = ("forget_icl", "retain_icl")
"""Few-shot splits: these are prompts, not items, so ``max_items`` does not apply to them."""

MAX_ITEMS = 100
"""Default number of examples per split; of a benchmark, all are used."""


@dataclass(frozen=True, kw_only=True)
class DataSources:
    """Where the splits come from. A file named for a split takes precedence over the benchmark's.

    ``files`` names a file for each split; ``folder`` holds ``<split>.jsonl`` for those not named.
    ``benchmark`` is in the folder ``data``, or on the Hub. At most ``max_items`` examples of a split are
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


WEIGHTS_AND_WORDS = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*/*.jinja", "*.py")
"""Files that define a model and its tokenizer; weights are next to config.json (``weight_files``)."""
NOTES = (RECORD, "coverage.json")
"""Files about a checkpoint that do not affect its outputs."""


@dataclass(frozen=True, kw_only=True)
class AuditJob:
    """An audit as it is asked for on the command line.

    ``splits`` names a file for each split; ``probes`` a folder with ``<split>.jsonl`` files for those not
    named; ``benchmark`` a public one, in the folder ``data`` or on the Hub, with its own metrics where
    none are named; ``verdict_on`` are metrics that decide the verdict too. At most ``max_items`` examples
    of a split are asked, drawn by ``seed`` (without it a hundred, or all of a benchmark). ``seeds_of``
    holds ``NAME=path,path`` for a recipe run with several seeds; such models need not be among ``models``,
    and those among them whose records differ in the seed alone are found without being named. ``shared``
    lets other audits that say so write into the same folder at once: parts of one table. ``names`` are
    what models are called, by their paths; others go by the shortest part of their paths that tells them
    apart.
    """

    models: tuple[str, ...]
    output: Path
    seeds_of: tuple[str, ...] = ()
    splits: Mapping[str, str] = field(default_factory=dict)
    probes: Path | None = None
    target: str | None = None
    retrained: str | None = None
    quantizers: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    verdict_on: tuple[str, ...] = ()
    fields: Mapping[str, str] | None = None
    benchmark: str | None = None
    data: Path | None = None
    max_items: int | None = None
    max_length: int = 2048
    seed: int = 0
    workers: int = 1
    trust_remote_code: bool = False
    calibration: CalibrationChoice = field(default_factory=CalibrationChoice)
    shared: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    serving: Serving = field(default_factory=Serving)

    def plan(self) -> AuditPlan:
        """Read and check all inputs; no model is loaded yet."""
        quantizers = tuple(parse_quantizer(text) for text in self.quantizers if text != "full")
        attacks = tuple(map(parse_attack, self.attacks))
        sources = self._asked
        probes = sources.probes()
        choice = select_metrics(
            self.metrics or sources.metrics,
            probes,
            has_control=self.retrained is not None,
            also=self.verdict_on,
        )
        masked = all(metric.masked for metric in choice.metrics)
        models = self._models(masked=masked)  # last, because hashing reads all of their bytes
        return AuditPlan(
            models=models,
            metrics=choice.metrics,
            probes=probes,
            conditions=every_condition(quantizers, attacks),
            seed=self.seed,
            max_length=self.max_length,
            seeds=self._seeds([model.name for model in models]),
            skipped=choice.skipped,
            verdict_on=tuple(dict.fromkeys(map(name_in, self.verdict_on))),
            forget=self._known_to_attackers("forget", sources, probes) if attacks else (),
            retain=self._known_to_attackers("retain", sources, probes) if attacks else (),
            calibration=self.calibration.source(
                quantizers, probes, sources.named(), columns=self.fields, seed=self.seed
            ),
        )

    def _known_to_attackers(self, split: str, sources: DataSources, probes: Probes) -> tuple[Example, ...]:
        """All examples of a split, not only the ones that are asked."""
        file = sources.named().get(split)
        return probes.split(split) if file is None else tuple(read_examples(file, fields=self.fields))

    def run(
        self,
        progress: Callable[[int, int, str], None] = no_progress,
        *,
        warn: Callable[[str], None] = lambda _: None,
    ) -> AuditSummary:
        """Measure what no earlier run has, and write the results under ``output``."""
        with claiming(self.output, shared=self.shared):
            self.claim()
            return self._measured(progress, warn)

    def _measured(
        self, progress: Callable[[int, int, str], None], warn: Callable[[str], None]
    ) -> AuditSummary:
        plan = self.plan()
        for warning in self._reading_warnings(plan):
            warn(warning)
        sources = sources_of(plan, paths=self._paths(), files=self._asked.sources(), fields=self.fields)
        audit = Audit(plan=plan, folder=self.output, diagnose=diagnose, sources=sources)
        for words in served.budgets(audit, self.serving.max_requests):
            warn(words)
        with memory_errors(fix="Lower --max-length or --workers, or measure on a larger machine."):
            return audit.run(workers=self.workers, progress=progress)

    def _reading_warnings(self, plan: AuditPlan) -> list[str]:
        """Warnings about prompts under the first model's tokenizer; the others derive from it."""
        named = {f"{split.replace('_', ' ')} set": plan.probes.split(split) for split in SPLITS}
        if not any(each.prompt or each.is_chat for examples in named.values() for each in examples):
            return []
        folders = [path for path in self._paths() if not is_endpoint(path)]
        if not folders:
            return []
        try:
            tokenizer = load_tokenizer(folders[0], trust_remote_code=self.trust_remote_code)
        except ModelError:  # reported when the model is loaded, which a finished audit does not need
            return []
        return reading_warnings(named, tokenizer)

    def _paths(self) -> list[str]:
        """The models' paths in the order of the plan."""
        return [path for path in (self.target, self.retrained) if path] + self._unlearned()

    def _unlearned(self) -> list[str]:
        """The unlearned models' paths: those named on their own, then those named as seeds of a recipe."""
        members = [path for paths in parse_seeds(self.seeds_of).values() for path in paths]
        unlearned = [*self.models, *(path for path in members if path not in self.models)]
        if not (unlearned or self.target or self.retrained):
            raise RecipeError(
                "an audit without a model",
                why="there is nothing to measure.",
                fix="Name a checkpoint, or several of one recipe with --seeds-of NAME=path,path.",
            )
        return unlearned

    def _seeds(self, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Recipes run with several seeds: those the user named, then those found in the records."""
        name_of = dict(zip(self._paths(), names, strict=True))
        seeds = {
            recipe: tuple(name_of[path] for path in paths)
            for recipe, paths in parse_seeds(self.seeds_of).items()
        }
        alone = {name_of[path]: Path(path) for path in self._unlearned()}
        for name in (member for members in seeds.values() for member in members):
            alone.pop(name, None)
        return seeds | recorded_seeds(alone, taken={*names, *seeds})

    @property
    def _asked(self) -> DataSources:
        return DataSources(
            files=self.splits,
            folder=self.probes,
            benchmark=self.benchmark,
            data=self.data,
            columns=self.fields,
            max_items=self.max_items,
            seed=self.seed,
        )

    def _models(self, *, masked: bool) -> tuple[ModelSource, ...]:
        roles: list[tuple[str, Role]] = []
        if self.target:
            roles.append((self.target, Role.TARGET))
        if self.retrained:
            roles.append((self.retrained, Role.RETRAINED))
        roles += [(path, Role.UNLEARNED) for path in self._unlearned()]
        endpoints = {path: self._endpoint(path) for path, _ in roles if is_endpoint(path)}
        served_as = {path: endpoint.served for path, endpoint in endpoints.items()}
        short = _short_names([served_as.get(path, path) for path, _ in roles])
        names = [self.names.get(path, name) for name, (path, _) in zip(short, roles, strict=True)]
        if self.names and len(set(names)) < len(names):
            raise RecipeError(
                f"models called {', '.join(names)}",
                why="two of them have the same name.",
                fix="Give each a name of its own.",
            )
        return tuple(
            ModelSource(
                name=name,
                role=role,
                hash=_hash(str(endpoints.get(path, path))),
                load=Checkpoint(path, self.trust_remote_code, masked),
                endpoint=endpoints.get(path),
            )
            for name, (path, role) in zip(names, roles, strict=True)
        )

    def _endpoint(self, path: str) -> Endpoint:
        if self.attacks:
            raise RecipeError(
                f"an attack on {path}",
                why="attacks work on weights, and a server has none to give.",
                fix="Leave out --attack, or attack the checkpoint that is served.",
            )
        return parse_endpoint(path, self.serving)

    def claim(self) -> None:
        """Refuse a folder that contains something other than an audit, or that cannot be written."""
        require_writable(self.output)
        if not self.output.exists():
            return
        if not self.output.is_dir() or (
            any(self.output.iterdir()) and not (self.output / "cells").is_dir()
        ):
            raise OutputError(
                f"{self.output} is not an audit",
                why="it contains other files, which would be mixed with the results.",
                fix="Choose another --output.",
            )


def _hash(path: str) -> str:
    if is_endpoint(path):
        return hash_json({"endpoint": path})  # which bytes are served, nobody can know
    folder = local_folder(path)
    if folder is not None:
        require_checkpoint(folder)  # fail early, not after the models before it were measured
        return hash_folder(folder, patterns=WEIGHTS_AND_WORDS, without=NOTES)
    return hash_json({"hub": path})  # the revision is only known once it is loaded


def _short_names(paths: Sequence[str]) -> list[str]:
    """The shortest path endings that are distinct."""
    deepest = max(len(Path(path).parts) for path in paths)
    for depth in range(1, deepest + 1):
        names = ["/".join(Path(path).parts[-depth:]) or path for path in paths]
        if len(set(names)) == len(names):
            break
    return names
