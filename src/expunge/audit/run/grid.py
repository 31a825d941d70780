"""Run an audit: load each model once, measure the missing cells, then summarise."""

from __future__ import annotations

import gc
from concurrent.futures import wait
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from expunge.audit.results import collect, write_results
from expunge.audit.run import served
from expunge.audit.run.cells import DIAGNOSTICS, CellSpec, attack_note, cell_specs, notes_of
from expunge.audit.run.loaded import ControlStateCache, LoadedModel, write_sources
from expunge.audit.run.plan import Role
from expunge.audit.run.worker_status import worker_status
from expunge.audit.saved import FILES, SCORES, SOURCES, SUMMARY, file_hashes, last_record
from expunge.audit.store import CellScores, CellStore, condense
from expunge.condition import Kind, no_report
from expunge.files import RECORD, results_in, write_json
from expunge.inference.observer import Observer
from expunge.model.resources import worker_pool
from expunge.record import Stopwatch, make_record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from expunge.audit.run.plan import AuditPlan, Loader
    from expunge.audit.store import AnyPart
    from expunge.audit.summary import AuditSummary
    from expunge.condition import Condition

    Diagnose = Callable[[Loader, nn.Module, Condition], dict[str, Any]]
    """Diagnostics of an unlearned model under a quantizer, as JSON; called with a loader of the target."""
    Progress = Callable[[int, int, str], None]
    """Progress callback: ``(done, total, current)``."""

POLL = 0.5
"""Seconds between two checks of the workers."""


def observe(model: nn.Module, tokenizer: Any, plan: AuditPlan) -> Observer:
    """The observer an audit measures with."""
    return Observer(model, tokenizer, max_length=plan.max_length, batch_tokens=plan.batch_tokens)


def no_progress(done: int, total: int, what: str) -> None:
    """Ignore progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """A plan and the folder its results go to.

    ``diagnose`` is called for every unlearned model and quantizer, the model at full precision. It and
    ``observe`` are module-level functions if there are several workers. ``sources`` says where models and
    splits came from (``sources_of``).
    """

    plan: AuditPlan
    folder: Path
    diagnose: Diagnose | None = None
    sources: Mapping[str, Any] | None = None
    observe: Callable[[nn.Module, Any, AuditPlan], Observer] = observe

    def run(self, *, workers: int = 1, progress: Progress = no_progress) -> AuditSummary:
        """Measure what is missing; write ``scores.parquet``, ``summary.json`` and ``record.json``.

        A finished audit loads no model. Several ``workers`` measure models in parallel, one each.
        """
        with results_in(self.folder, self.store.folder):
            return self._run(workers=workers, progress=progress)

    def _run(self, *, workers: int, progress: Progress) -> AuditSummary:
        watch = Stopwatch()
        every = self.all_parts()
        last, unreadable = last_record(self.folder)
        damaged = unreadable + self.store.discard_damaged(
            [*every, *notes_of(self.plan, every)], last.get(FILES, {})
        )
        missing = self.missing()

        def report(what: str) -> None:
            progress(sum(map(self._is_done, missing)), len(missing), what)

        by_model = [list(group) for _, group in groupby(missing, key=lambda part: part.source.name)]
        if min(workers, len(by_model)) > 1:
            self._side_by_side(by_model, workers, report)
        else:
            for specs in by_model:
                self.measure(specs, report)
        self.control_states.clear()
        report("")
        facts = {
            "parts": {"measured": len(missing), "all": len(every)},
            **plan_facts(self.plan),
            "earlier": earlier_runs(last),
            "measured_again": damaged,
        }
        return self._write(watch, every, facts)

    @property
    def store(self) -> CellStore:
        """The finished parts."""
        return CellStore(self.folder / "cells")

    @property
    def control_states(self) -> ControlStateCache:
        """The cached states of the retrained model, kept until the audit is finished."""
        return ControlStateCache(self.plan, self.folder / "cells" / "control_states", self.observe)

    def all_parts(self) -> list[CellSpec]:
        """Every part of the plan."""
        hook = self.diagnose and f"{self.diagnose.__module__}.{self.diagnose.__qualname__}"
        return list(cell_specs(self.plan, hook))

    def missing(self) -> list[CellSpec]:
        """The parts no earlier run has finished."""
        return [part for part in self.all_parts() if not self._is_done(part)]

    def _is_done(self, part: CellSpec) -> bool:
        attacked = part.condition.kind is Kind.ATTACK
        return self.store.has(part.facts) and not (
            attacked and not self.store.has(attack_note(self.plan, part))
        )

    def measure(self, specs: Sequence[CellSpec], report: Callable[[str], None] = no_report) -> None:
        """Measure the parts of one model, which is loaded for this and freed afterwards."""
        # Another model with the same bytes may have been measured meanwhile.
        missing = [part for part in specs if not self._is_done(part)]
        if not missing:
            return
        if missing[0].source.endpoint is not None:
            served.measure(self, missing, report)
            return
        self.control_states.compute(missing, report)  # first, so that two models need not fit into memory
        model, tokenizer = missing[0].source.load()
        loaded = LoadedModel(
            model, tokenizer, self.plan, source=missing[0].source, store=self.store, report=report
        )
        for _, group in groupby(missing, key=lambda part: part.condition.label):
            self._measure_under_one(list(group), loaded, report)
        # Models hold reference cycles; without this both it and the next one would be in memory.
        del model, loaded
        gc.collect()

    def _measure_under_one(
        self, specs: Sequence[CellSpec], loaded: LoadedModel, report: Callable[[str], None]
    ) -> None:
        condition = specs[0].condition
        for part in specs:
            if part.name == DIAGNOSTICS:
                report(str(part))
                self._diagnose(part, loaded.model)
        scores = [part for part in specs if part.name != DIAGNOSTICS]
        if not scores:
            return
        if self.plan.calibration_of(condition) is not None:
            report(f"{scores[0].source.name} · {condition.label} · calibration")
        with loaded.under(condition) as applied:
            observer = self.observe(applied.model, loaded.tokenizer, self.plan)
            probes = self.plan.probes_under(condition, applied.rewrite_prompt)
            chosen = self.plan.named_metrics
            for part in scores:
                chosen[part.name].prefetch(observer, probes)
            for part in sorted(scores, key=lambda part: chosen[part.name].runs_last):
                report(str(part))
                measured = self.control_states.measure(part, observer, probes)
                self.store.write(part.facts, CellScores(measured, condense(applied.coverage)))
            if condition.kind is Kind.ATTACK:
                self.store.write_note(attack_note(self.plan, scores[0]), applied.facts)

    def _diagnose(self, part: CellSpec, model: nn.Module) -> None:
        target = self.plan.holder(Role.TARGET)
        if self.diagnose is not None and target is not None:
            self.store.write_note(part.facts, self.diagnose(target.load, model, part.condition))

    def _side_by_side(
        self, by_model: Sequence[Sequence[CellSpec]], workers: int, report: Callable[[str], None]
    ) -> None:
        with worker_status(self.folder / "doing") as now, worker_pool(min(workers, len(by_model))) as pool:
            waiting = {pool.submit(self.measure, specs, now.report) for specs in by_model}
            while waiting:
                finished, waiting = wait(waiting, timeout=POLL)
                for future in finished:
                    future.result()
                report(now.summary())

    def _write(self, watch: Stopwatch, every: Sequence[CellSpec], facts: Mapping[str, Any]) -> AuditSummary:
        summary = write_results(self.folder, self.plan, collect(self.store, self.plan, every))
        if self.sources is not None:
            write_sources(self.folder, self.sources)
        hashes = {FILES: result_hashes(self.folder, self.store, [*every, *notes_of(self.plan, every)])}
        write_json(self.folder / RECORD, make_record(command="audit", watch=watch, **facts, **hashes))
        return summary


def result_hashes(folder: Path, store: CellStore, parts: Sequence[AnyPart]) -> dict[str, str]:
    """The SHA-256 of what an audit writes, by path: results, then the files of its parts."""
    results = [folder / name for name in (SUMMARY, SCORES, SOURCES)]
    cells = dict.fromkeys(store.path(part.facts) for part in parts)
    return file_hashes(folder, [path for path in (*results, *cells) if path.is_file()])


def earlier_runs(last: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The earlier runs that measured parts of this audit, from the last record."""
    kept: list[dict[str, Any]] = list(last.get("earlier", ()))
    if last.get("parts", {}).get("measured"):
        names = ("started", "seconds", "parts", "versions", "hardware")
        kept.append({name: last[name] for name in names if name in last})
    return kept


def plan_facts(plan: AuditPlan) -> dict[str, Any]:
    """The facts about a plan that go into the record."""
    return {
        "models": [
            {"name": component.name, "role": component.role, "hash": component.hash}
            for component in plan.models
        ],
        "conditions": [
            {
                "label": component.label,
                "settings": component.model_dump(mode="json"),
                "calibration": None if (source := plan.calibration_of(component)) is None else source.facts,
            }
            for component in plan.columns
        ],
        "metrics": {
            name: component.model_dump(mode="json") for name, component in plan.named_metrics.items()
        },
        "probes": plan.probes.hash,
        "max_length": plan.max_length,
        "batch_tokens": plan.batch_tokens,
        "bootstrap": {"seed": plan.seed, "resamples": plan.resamples},
    }
