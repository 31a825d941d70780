"""From paths and names, as a user gives them, to an audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from expunge.audit.asked import Asked
from expunge.audit.calibrate import CalibrationChoice
from expunge.audit.checkpoint import Checkpoint
from expunge.audit.choice import choose
from expunge.audit.diagnose import diagnose
from expunge.audit.grid import Audit, silent
from expunge.audit.plan import AuditPlan, ModelSource, Role
from expunge.audit.repeats import parse_seeds, recorded_seeds
from expunge.audit.sources import sources_of
from expunge.audit.summary import Summary
from expunge.errors import OutputError, RecipeError
from expunge.files import RECORD, claiming, require_writable
from expunge.model.checkpoint import local_folder, require_checkpoint
from expunge.model.memory import memory_errors
from expunge.quant.parse import parse_quantizer
from expunge.record import hash_folder, hash_json

WEIGHTS_AND_WORDS = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*/*.jinja", "*.py")
"""Whatever a model and its tokenizer are read from: weights lie beside config.json (``weight_files``)."""
NOTES = (RECORD, "coverage.json")
"""Files about a checkpoint, which change nothing of what it says."""


@dataclass(frozen=True, kw_only=True)
class AuditJob:
    """An audit as it is asked for on the command line.

    ``splits`` names a file for each split; ``probes`` a folder with ``<split>.jsonl`` files for
    those not named; ``benchmark`` a public one, in the folder ``data`` or on the Hub, with its own metrics
    where none are named. At most ``max_items`` examples of a split are asked, drawn by ``seed`` (without
    it a hundred, or all of a benchmark). ``seeds_of``
    holds ``NAME=path,path`` for a recipe run with several seeds; such models need not be among ``models``,
    and those among them whose records differ in the seed alone are found without being named. ``shared``
    lets other audits that say so write into the same folder at once: parts of one table.
    """

    models: tuple[str, ...]
    output: Path
    seeds_of: tuple[str, ...] = ()
    splits: Mapping[str, str] = field(default_factory=dict)
    probes: Path | None = None
    target: str | None = None
    retrained: str | None = None
    quantizers: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
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

    def plan(self) -> AuditPlan:
        """Everything named, read and checked; no model is loaded yet."""
        transforms = tuple(parse_quantizer(text) for text in self.quantizers if text != "full")
        asked = self._asked
        probes = asked.probes()
        choice = choose(self.metrics or asked.metrics, probes, has_control=self.retrained is not None)
        masked = all(metric.masked for metric in choice.metrics)
        models = self._models(masked=masked)  # last: their bytes are read to know them again
        return AuditPlan(
            models=models,
            metrics=choice.metrics,
            probes=probes,
            transforms=transforms,
            seed=self.seed,
            max_length=self.max_length,
            seeds=self._seeds([model.name for model in models]),
            left_out=choice.left_out,
            calibration=self.calibration.source(
                transforms, probes, asked.named(), columns=self.fields, seed=self.seed
            ),
        )

    def run(self, progress: Callable[[int, int, str], None] = silent) -> Summary:
        """Measure what no earlier run has, and write the results under ``output``."""
        with claiming(self.output, shared=self.shared):
            self.claim()
            return self._measured(progress)

    def _measured(self, progress: Callable[[int, int, str], None]) -> Summary:
        plan = self.plan()
        sources = sources_of(plan, paths=self._paths(), files=self._asked.sources())
        audit = Audit(plan=plan, folder=self.output, diagnose=diagnose, sources=sources)
        with memory_errors(fix="Lower --max-length or --workers, or measure on a larger machine."):
            return audit.run(workers=self.workers, progress=progress)

    def _paths(self) -> list[str]:
        """The models' paths in the order of the plan."""
        return [path for path in (self.target, self.retrained) if path] + self._unlearned()

    def _unlearned(self) -> list[str]:
        """The unlearned models' paths: those named alone, then those named as seeds of a recipe."""
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
        """Recipes run with several seeds, by the names of their models: told, then found in the records."""
        name_of = dict(zip(self._paths(), names, strict=True))
        told = {
            recipe: tuple(name_of[path] for path in paths)
            for recipe, paths in parse_seeds(self.seeds_of).items()
        }
        alone = {name_of[path]: Path(path) for path in self._unlearned()}
        for name in (member for members in told.values() for member in members):
            alone.pop(name, None)
        return told | recorded_seeds(alone, taken={*names, *told})

    @property
    def _asked(self) -> Asked:
        return Asked(
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
        names = _short_names([path for path, _ in roles])
        return tuple(
            ModelSource(
                name=name,
                role=role,
                hash=_hash(path),
                load=Checkpoint(path, self.trust_remote_code, masked),
            )
            for name, (path, role) in zip(names, roles, strict=True)
        )

    def claim(self) -> None:
        """Refuse a folder that holds something other than an audit, or that cannot be written."""
        require_writable(self.output)
        if not self.output.exists():
            return
        if not self.output.is_dir() or (
            any(self.output.iterdir()) and not (self.output / "cells").is_dir()
        ):
            raise OutputError(
                f"{self.output} is not an audit",
                why="it holds something else, which would be mixed with the results.",
                fix="Choose another --output.",
            )


def _hash(path: str) -> str:
    folder = local_folder(path)
    if folder is not None:
        require_checkpoint(folder)  # now, and not after the models before it were measured
        return hash_folder(folder, patterns=WEIGHTS_AND_WORDS, without=NOTES)
    return hash_json({"hub": path})  # what a name on the Hub stands for is only known once it is loaded


def _short_names(paths: Sequence[str]) -> list[str]:
    """The ends of the paths, each as long as it takes to tell them apart."""
    deepest = max(len(Path(path).parts) for path in paths)
    for depth in range(1, deepest + 1):
        names = ["/".join(Path(path).parts[-depth:]) or path for path in paths]
        if len(set(names)) == len(names):
            break
    return names
