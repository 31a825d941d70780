"""Cached hidden states of the retrained control, for metrics that compare a model with it.

The control is loaded once to compute them, and freed before the measured model is loaded.
"""

from __future__ import annotations

import gc
import re
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from expunge.audit.cells import CONTROL, DIAGNOSTICS
from expunge.audit.loaded import LoadedModel
from expunge.audit.plan import Role
from expunge.condition import Kind
from expunge.metrics.control_relative import ControlRelativeMetric, ControlStates
from expunge.record import hash_json
from expunge.scratch import remove_leftovers_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import nn

    from expunge.audit.cells import CellSpec
    from expunge.audit.plan import AuditPlan
    from expunge.inference.observer import Observer
    from expunge.metrics.base import Measured
    from expunge.metrics.probes import Probes

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
        if control is None or not lacking:
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
