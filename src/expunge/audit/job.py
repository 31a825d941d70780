"""From paths and names, as a user gives them, to an audit."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from expunge.audit.diagnose import diagnose
from expunge.audit.grid import Audit, silent
from expunge.audit.plan import AuditPlan, ModelSource, Role
from expunge.audit.sources import write_sources
from expunge.audit.summary import Summary
from expunge.corpus.readers import read_examples
from expunge.errors import DataError, OutputError
from expunge.files import require_writable
from expunge.metrics import metrics as registry
from expunge.metrics.probes import Probes
from expunge.model.checkpoint import local_folder, require_checkpoint
from expunge.model.device import best_device
from expunge.model.load import load_model, load_tokenizer
from expunge.model.memory import memory_errors
from expunge.quant.parse import parse_quantizer
from expunge.record import hash_folder, hash_json

SPLITS = tuple(split.name for split in fields(Probes))
WEIGHTS_AND_WORDS = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")

ORDER = ("knowmem_forget", "second_phrasing", "verbmem", "privleak", "auc", "utility", "neighbours")


@dataclass(frozen=True, kw_only=True)
class AuditJob:
    """An audit as it is asked for on the command line.

    ``splits`` names a file for each split; ``probes`` a folder with ``<split>.jsonl`` files for
    those not named. At most ``max_items`` examples of a split are asked, drawn by ``seed``.
    """

    models: tuple[str, ...]
    output: Path
    splits: Mapping[str, str] = field(default_factory=dict)
    probes: Path | None = None
    target: str | None = None
    retrained: str | None = None
    quantizers: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    fields: Mapping[str, str] | None = None
    max_items: int = 100
    max_length: int = 2048
    seed: int = 0
    workers: int = 1
    trust_remote_code: bool = False

    def plan(self) -> AuditPlan:
        """Everything named, read and checked; no model is loaded yet."""
        transforms = tuple(parse_quantizer(text) for text in self.quantizers if text != "full")
        names = self.metrics or _every_metric()
        chosen = tuple(registry.build({"name": name}) for name in names)
        return AuditPlan(
            models=self._models(),
            metrics=chosen,
            probes=self._probes(),
            transforms=transforms,
            seed=self.seed,
            max_length=self.max_length,
        )

    def run(self, progress: Callable[[int, int, str], None] = silent) -> Summary:
        """Measure what no earlier run has, and write the results under ``output``."""
        self._claim()
        plan = self.plan()
        audit = Audit(plan=plan, folder=self.output, diagnose=diagnose)
        with memory_errors(fix="Lower --max-length or --workers, or measure on a larger machine."):
            summary = audit.run(workers=self.workers, progress=progress)
        write_sources(self.output, plan, paths=self._paths(), files=self._files())
        return summary

    def _paths(self) -> list[str]:
        """The models' paths in the order of the plan."""
        return [path for path in (self.target, self.retrained) if path] + list(self.models)

    def _files(self) -> dict[str, str]:
        """The file of each split that has one."""
        found = {split: self.splits.get(split) or self._in_folder(split) for split in SPLITS}
        return {split: file for split, file in found.items() if file}

    def _models(self) -> tuple[ModelSource, ...]:
        roles: list[tuple[str, Role]] = []
        if self.target:
            roles.append((self.target, Role.TARGET))
        if self.retrained:
            roles.append((self.retrained, Role.RETRAINED))
        roles += [(path, Role.UNLEARNED) for path in self.models]
        names = _short_names([path for path, _ in roles])
        return tuple(
            ModelSource(
                name=name,
                role=role,
                hash=_hash(path),
                load=partial(load_pair, path, trust_remote_code=self.trust_remote_code),
            )
            for name, (path, role) in zip(names, roles, strict=True)
        )

    def _probes(self) -> Probes:
        if self.probes is not None and not self.probes.is_dir():
            raise DataError(
                f"--probes {self.probes}", why="there is no such folder.", fix="Check the path."
            )
        found: dict[str, tuple[Any, ...]] = {}
        for split, file in self._files().items():
            examples = read_examples(file, fields=self.fields)
            found[split] = tuple(_sample(examples, self.max_items, self.seed, split))
        if not found.get("forget"):
            raise DataError(
                "an audit without a forget set",
                why="there is nothing to ask the model about.",
                fix="Pass --forget FILE, or --probes FOLDER with a forget.jsonl in it.",
            )
        return Probes(**found)

    def _in_folder(self, split: str) -> str | None:
        if self.probes is None:
            return None
        path = self.probes / f"{split}.jsonl"
        return str(path) if path.is_file() else None

    def _claim(self) -> None:
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


def _every_metric() -> tuple[str, ...]:
    """All metrics: what was to go first, then what was to stay, then what third parties add."""
    return tuple(
        sorted(registry, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    )


def load_pair(path: str, *, trust_remote_code: bool) -> tuple[nn.Module, Any]:
    """A model on the best device, and its tokenizer."""
    model = load_model(path, device=best_device(), trust_remote_code=trust_remote_code)
    return model, load_tokenizer(path, model=model, trust_remote_code=trust_remote_code)


def _sample(examples: Sequence[Any], count: int, seed: int, split: str) -> list[Any]:
    if len(examples) <= count:
        return list(examples)
    chosen = random.Random(f"{seed} {split}").sample(range(len(examples)), count)
    return [examples[i] for i in sorted(chosen)]


def _hash(path: str) -> str:
    folder = local_folder(path)
    if folder is not None:
        require_checkpoint(folder)  # now, and not after the models before it were measured
        return hash_folder(folder, patterns=WEIGHTS_AND_WORDS)
    return hash_json({"hub": path})  # what a name on the Hub stands for is only known once it is loaded


def _short_names(paths: Sequence[str]) -> list[str]:
    """The ends of the paths, each as long as it takes to tell them apart."""
    deepest = max(len(Path(path).parts) for path in paths)
    for depth in range(1, deepest + 1):
        names = ["/".join(Path(path).parts[-depth:]) or path for path in paths]
        if len(set(names)) == len(names):
            break
    return names
