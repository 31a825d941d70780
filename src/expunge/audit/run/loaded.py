"""Models in memory during an audit: the one measured, and the control's cached hidden states.

The control is loaded once to compute them, and freed before the measured model is loaded.
"""

from __future__ import annotations

import gc
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.audit.run.cells import CONTROL, DIAGNOSTICS, search_facts
from expunge.audit.run.plan import Role
from expunge.audit.saved import SOURCES
from expunge.condition import Applied, Condition, ConditionContext, Kind, no_report
from expunge.corpus.columns import reading
from expunge.corpus.formats import OWN_TEXT
from expunge.errors import RecipeError
from expunge.files import RECORD, write_json
from expunge.metrics.control_relative import ControlRelativeMetric, ControlStates
from expunge.model.gguf_source import source_of
from expunge.parsing import load_json
from expunge.record import hash_file, hash_json
from expunge.scratch import remove_leftovers_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from expunge.audit.run.cells import CellSpec
    from expunge.audit.run.plan import AuditPlan, ModelSource
    from expunge.audit.store import CellStore
    from expunge.inference.observer import Observer
    from expunge.metrics.base import Measured
    from expunge.metrics.probes import Probes
    from expunge.quant.calibration import Calibration
    from expunge.types import Example


def write_sources(folder: Path, sources: Mapping[str, Any]) -> None:
    """Keep where models and splits came from."""
    write_json(folder / SOURCES, sources)


def sources_of(
    plan: AuditPlan,
    *,
    paths: Sequence[str],
    files: Mapping[str, str],
    fields: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Facts about the models (``paths`` in the plan's order) and about how each split was read."""
    models = [
        {"name": source.name, "role": source.role, "path": path, "record": record_beside(Path(path))}
        | ({} if (file := source_of(path)) == path else {"read_from": file})
        for source, path in zip(plan.models, paths, strict=True)
    ]
    splits = {
        name: {"file": file, **_counts(plan.probes.split(name)), **_fingerprint(Path(file))}
        for name, file in files.items()
    }
    return {"models": models, "splits": splits, "reading": reading(fields)}


def record_beside(checkpoint: Path) -> dict[str, Any] | None:
    """The record of the run that wrote a checkpoint; ``None`` if expunge did not."""
    try:
        record = load_json((checkpoint / RECORD).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _fingerprint(file: Path) -> dict[str, str]:
    """The hash of a local file, as ``sha256sum`` prints it; nothing for a benchmark's or a Hub name."""
    return {"sha256": hash_file(file)} if file.is_file() else {}


def _counts(examples: Sequence[Example]) -> dict[str, int]:
    own = sum(OWN_TEXT.fullmatch(example.id) is not None for example in examples)
    return {
        **({"written_by_a_model": own} if own else {}),
        "asked": len(examples),
        "documents": sum(example.is_document for example in examples),
        "groups": len({example.group for example in examples if example.group is not None}),
    }


OWN_NAMES = re.compile(r"[0-9a-f]{32}\.safetensors")
"""File names of the cache."""


@dataclass(frozen=True, slots=True)
class ControlStateCache:
    """One file per metric and condition, in a folder that exists while an audit runs."""

    plan: AuditPlan
    folder: Path
    observe: Callable[[nn.Module, Any, AuditPlan], Observer]

    def compute(self, parts: Sequence[CellSpec], report: Callable[[str], None]) -> None:
        """Compute the retrained model's states for those of ``parts`` that lack them, loading it once."""
        control = self.plan.holder(Role.RETRAINED)
        lacking = [part for part in parts if self._metric(part) and not self._path(part).exists()]
        if control is None or control.endpoint is not None or not lacking:
            return
        model, tokenizer = control.load()
        loaded = LoadedModel(model, tokenizer, self.plan, source=control)
        for condition, group in groupby(lacking, key=lambda part: part.condition):
            with loaded.under(condition) as applied:
                observer = self.observe(applied.model, tokenizer, self.plan)
                for part in group:
                    report(f"{control.name} · {condition.label} · for {part.name}")
                    self._keep(part, observer)
        del model, loaded
        gc.collect()

    def measure(self, part: CellSpec, observer: Observer, probes: Probes) -> Measured:
        """The scores of a part; its metric receives the retrained model's states if it needs them."""
        metric, path = self._metric(part), self._path(part)
        if metric is None or not path.exists():
            return self.plan.named_metrics[part.name].measure(observer, probes)
        return metric.measure_against(observer, probes, ControlStates.read(path))

    def clear(self) -> None:
        """Delete the cached states."""
        if self.folder.is_symlink():
            return
        remove_leftovers_in(self.folder)
        for path in self.folder.glob("*.safetensors"):
            if OWN_NAMES.fullmatch(path.name):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # missing, or it contains other files
            self.folder.rmdir()

    def _keep(self, part: CellSpec, observer: Observer) -> None:
        metric = self._metric(part)
        if metric is not None:
            metric.control_states(observer, self.plan.probes).save(self._path(part))

    def _metric(self, part: CellSpec) -> ControlRelativeMetric | None:
        # An attack may change the prompts of each model, whose states then belong to other tokens.
        if part.name == DIAGNOSTICS or part.condition.kind is Kind.ATTACK:
            return None
        metric = self.plan.named_metrics[part.name]
        return metric if isinstance(metric, ControlRelativeMetric) else None

    def _path(self, part: CellSpec) -> Path:
        """The file, named by the hash of all it depends on, which excludes the measured model."""
        facts = {name: fact for name, fact in part.facts.items() if name != "model"}
        return self.folder / f"{hash_json({CONTROL: None, **facts})[:32]}.safetensors"


@dataclass(kw_only=False)
class LoadedModel:
    """A model of an audit in memory.

    Attributes:
        model: the model at full precision.
        tokenizer: its tokenizer.
        plan: the audit.
        source: which model of the audit it is.
        store: where results of searches are stored; without one every search is repeated.
        report: called with a description of the current work.
    """

    model: nn.Module
    tokenizer: Any
    plan: AuditPlan
    source: ModelSource
    store: CellStore | None = None
    report: Callable[[str], None] = no_report

    @contextmanager
    def under(self, condition: Condition) -> Iterator[Applied]:
        """The model under ``condition`` inside the block: its parts are applied one on top of the other."""
        with ExitStack() as stack:
            applied = Applied(model=self.model)
            for index, part in enumerate(condition.parts):
                context = self._context(part, condition, stack)
                before = condition.parts[:index]
                result = self._search(part, before, applied.model, context)
                applied = applied.then(stack.enter_context(part.under(applied.model, context, result)))
            yield applied

    @cached_property
    def calibration(self) -> Calibration:
        """The calibration text, read once, from the model at full precision."""
        source = self.plan.calibration
        if source is None:
            raise RecipeError(
                "a calibrated quantizer without calibration text",
                why="its result depends on the activations of calibration text.",
                fix="Pass --calibrate self, a split or a file.",
            )
        return source.tokens(self.model, self.tokenizer)

    def _context(self, part: Condition, condition: Condition, stack: ExitStack) -> ConditionContext:
        target = self.plan.holder(Role.TARGET)
        options: dict[str, Any] = {} if target is None else {"target": lambda: target.load()[0]}
        return ConditionContext(
            tokenizer=self.tokenizer,
            workdir=Path(stack.enter_context(tempfile.TemporaryDirectory())),
            forget=self.plan.knowledge(part).known,
            retain=self.plan.retain,
            calibration=lambda: self.calibration,
            seed=self.plan.seed,
            max_length=self.plan.max_length,
            report=lambda what: self.report(f"{self.source.name} · {condition.label} · {what}"),
            **options,
        )

    def _search(
        self, part: Condition, before: Sequence[Condition], model: nn.Module, context: ConditionContext
    ) -> Any:
        """The result of a part's search, from an earlier run where there is one."""
        if part.kind is not Kind.ATTACK:
            return None
        if self.store is None:
            return part.search(model, context)
        facts = search_facts(self.plan, self.source, part, before)
        if not self.store.has(facts):
            self.store.write_note(facts, part.search(model, context))
        return self.store.read_note(facts)


# Checkpoints of one recipe run with several seeds, as the user or their records declare.

SAME = ("recipe", "source_sha256", "forget", "retain", "save_dtype")
"""Fields of the record that two seeds of a recipe share: all inputs of a run but its seed."""


def parse_seeds(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """``["npo=runs/s0,runs/s1"]`` as ``{"npo": ("runs/s0", "runs/s1")}``.

    Raises:
        RecipeError: an entry is not of that form, or names a recipe again.
    """
    seeds: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, _, paths = text.partition("=")
        members = tuple(path for path in paths.split(",") if path)
        if not name or not members:
            raise RecipeError(
                f"--seeds-of {text}",
                why="it is not of the form NAME=path,path.",
                fix="For instance --seeds-of npo=runs/seed0,runs/seed1,runs/seed2",
            )
        if name in seeds:
            raise RecipeError(
                f"--seeds-of {text}",
                why=f"the seeds of {name!r} are named twice.",
                fix="Put all of its checkpoints into one --seeds-of.",
            )
        seeds[name] = members
    return seeds


def recorded_seeds(checkpoints: Mapping[str, Path], *, taken: set[str]) -> dict[str, tuple[str, ...]]:
    """Checkpoints whose records differ in the seed only, by the name of their recipe.

    Checkpoints without such a record are left out. Names in ``taken`` are avoided.
    """
    alike: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for name, path in checkpoints.items():
        record = record_beside(path)
        if record is not None and record.keys() >= {*SAME, "seed"} and isinstance(record["recipe"], dict):
            alike.setdefault(hash_json([record[key] for key in SAME]), []).append((name, record))
    seeds: dict[str, tuple[str, ...]] = {}
    for runs in alike.values():
        if len({str(run["seed"]) for _, run in runs}) == len(runs) > 1:
            recipe = _free(str(runs[0][1]["recipe"].get("name", "recipe")), taken | seeds.keys())
            seeds[recipe] = tuple(name for name, _ in runs)
    return seeds


def _free(name: str, taken: set[str]) -> str:
    """``name``, with a number appended if the audit already uses it."""
    candidates = (name if count == 1 else f"{name} ({count})" for count in range(1, len(taken) + 2))
    return next(candidate for candidate in candidates if candidate not in taken)
