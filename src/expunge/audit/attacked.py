"""An audit under attack: one attack, one budget, on the unlearned model, the target and the control."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.attacks import AttackContext, AttackedModel
from expunge.audit.attacked_parts import NO_ATTACK, AttackPart, AttackPlan, parse_attack
from expunge.audit.attacked_results import AttackSummary, Outcome
from expunge.audit.data_sources import DataSources
from expunge.audit.grid import no_progress, observe, plan_facts, result_hashes
from expunge.audit.job import AuditJob
from expunge.audit.saved import FILES, last_record
from expunge.audit.store import AnyPart, CellScores, CellStore, NotePart, write_long
from expunge.corpus.readers import read_examples
from expunge.errors import RecipeError
from expunge.files import RECORD, claiming, results_in, write_json
from expunge.model.resources import memory_errors
from expunge.record import Stopwatch, make_record
from expunge.scratch import temporary_folder

if TYPE_CHECKING:
    from torch import nn

METRICS = ("probability", "knowmem_forget", "utility")
"""What is measured where nothing is named; what lacks a split is left out."""


@dataclass(frozen=True, kw_only=True)
class AttackJob:
    """Attacks on the models of ``audit``, whose metrics and probes say what is measured.

    ``attacks`` are written ``name`` or ``name:setting=value,setting=value``.
    """

    audit: AuditJob
    attacks: tuple[str, ...]

    def plan(self) -> AttackPlan:
        """Everything named, read and checked; no model is loaded yet."""
        if not self.attacks or len(set(self.attacks)) < len(self.attacks):
            raise RecipeError(
                "the attacks",
                why="there is none." if not self.attacks else "one of them is named twice.",
                fix="Pass --attack relearn, or others; each once.",
            )
        job = self.audit if self.audit.metrics else replace(self.audit, metrics=METRICS)
        chosen = {text: parse_attack(text) for text in self.attacks}
        files = DataSources(files=job.splits, folder=job.probes, columns=job.fields).named()
        known = {
            name: read_examples(files[name], fields=job.fields) if name in files else []
            for name in ("forget", "retain")
        }
        plan = AttackPlan(audit=job.plan(), attacks=chosen, **known)
        _ = plan.target  # refused without one
        return plan

    def run(self, progress: Callable[[int, int, str], None] = no_progress) -> AttackSummary:
        """Attack and measure what no earlier run has, and write the results under ``audit.output``."""
        with claiming(self.audit.output):
            self.audit.claim()
            assault = Assault(self.plan(), self.audit.output, progress)
            with memory_errors(fix="Lower --max-length, or attack on a larger machine."):
                return assault.run()


class Assault:
    """A plan of attacks and the folder its results go to, resumable cell by cell."""

    def __init__(self, plan: AttackPlan, folder: Path, progress: Callable[[int, int, str], None]) -> None:
        self.plan = plan
        self.folder = folder
        self.progress = progress
        self.store = CellStore(folder / "cells")
        self.every = list(plan.parts())
        last, unreadable = last_record(folder)
        kept: list[AnyPart] = [*self.every, *self._notes()]
        self.damaged = unreadable + self.store.discard_damaged(kept, last.get(FILES, {}))
        self.missing = [part for part in self.every if not self._is_finished(part)]

    def run(self) -> AttackSummary:
        """Measure what is missing; write ``scores.parquet``, ``summary.json`` and ``record.json``."""
        with results_in(self.folder, self.store.folder):
            return self._run()

    def _run(self) -> AttackSummary:
        watch = Stopwatch()
        for _, own in groupby(self.missing, key=lambda part: part.source.name):
            self._measure(list(own))
        self._tell("")
        cells = {
            (part.source.name, part.label, part.metric): self.store.read(part.facts).scores
            for part in self.every
        }
        roles = {source.name: source.role for source in self.plan.audit.models}
        write_long(
            self.folder / "scores.parquet",
            [
                ((model, roles[model], label, name), scores)
                for (model, label, name), scores in cells.items()
            ],
        )
        summary = AttackSummary(
            rows=tuple(Outcome(self.plan, cells).rows()),
            models=tuple(roles.items()),
            attacks={label: attack.model_dump(mode="json") for label, attack in self.plan.attacks.items()},
            found={label: self._facts(label) for label in self.plan.attacks},
        )
        write_json(self.folder / "summary.json", summary.model_dump(mode="json"))
        record = make_record(
            command="attack",
            watch=watch,
            **plan_facts(self.plan.audit),
            attacks=summary.attacks,
            parts={"all": len(self.every), "measured": len(self.missing)},
            measured_again=self.damaged,
            **{FILES: result_hashes(self.folder, self.store, [*self.every, *self._notes()])},
        )
        write_json(self.folder / RECORD, record)
        return summary

    def _is_finished(self, part: AttackPart) -> bool:
        return self.store.has(part.facts) and (
            part.label == NO_ATTACK or self.store.has(self._told_of(part))
        )

    def _notes(self) -> list[NotePart]:
        """What every attack found and did, by the facts it is kept by."""
        notes = []
        for part in self.every:
            if part.label != NO_ATTACK:
                name = f"{part.source.name} · {part.label}"
                notes += [NotePart(name, self._told_of(part)), NotePart(name, self._found_facts(part))]
        return notes

    def _found_facts(self, part: AttackPart) -> dict[str, Any]:
        source = None if self.plan.attacks[part.label].model_independent else part.source
        return {"found": self.plan.attack_facts(source, part.label)}

    def _measure(self, own: list[AttackPart]) -> None:
        """The missing parts of one model, which is loaded for them and let go after them."""
        model, tokenizer = own[0].source.load()
        for label, group in groupby(own, key=lambda part: part.label):
            parts = list(group)
            with self._under(label, parts[0], model, tokenizer) as attacked:
                observer = observe(attacked.model, tokenizer, self.plan.audit)
                probes = self.plan.probes(label, attacked.rewrite_prompt)
                for part in parts:
                    self._tell(str(part))
                    measured = self.plan.audit.named_metrics[part.metric].measure(observer, probes)
                    self.store.write(part.facts, CellScores(measured, []))
                self.store.write_note(self._told_of(parts[0]), attacked.facts)
            del attacked, observer
            gc.collect()

    @contextmanager
    def _under(
        self, label: str, part: AttackPart, model: nn.Module, tokenizer: Any
    ) -> Iterator[AttackedModel]:
        if label == NO_ATTACK:
            yield AttackedModel(model=model)
            return
        attack = self.plan.attacks[label]
        with temporary_folder("attack") as workdir:
            context = AttackContext(
                tokenizer=tokenizer,
                forget=self.plan.halves(label).known,
                retain=tuple(self.plan.retain),
                target=lambda: self.plan.target.load()[0],
                workdir=workdir,
                seed=self.plan.audit.seed,
                max_length=self.plan.audit.max_length,
                tell=lambda what: self._tell(f"{part.source.name} · {label} · {what}"),
            )
            self._tell(f"{part.source.name} · {label}")
            kept = self._found_facts(part)
            if not self.store.has(kept):
                self.store.write_note(kept, attack.search(model, context))
            with attack.applied(model, context, self.store.read_note(kept)) as attacked:
                yield attacked

    def _told_of(self, part: AttackPart) -> dict[str, Any]:
        return {"conclusion": self.plan.attack_facts(part.source, part.label)}

    def _facts(self, label: str) -> dict[str, Any]:
        """What the attack found or did, by model."""
        of = {part.source.name: part for part in self.every if part.label == label}
        return {name: self.store.read_note(self._told_of(part)) for name, part in of.items()}

    def _tell(self, what: str) -> None:
        done = sum(self.store.has(part.facts) for part in self.missing)
        self.progress(done, len(self.missing), what)
