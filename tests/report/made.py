"""A finished audit made by hand: numbers, texts and records that tests know."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge.audit.forgetting import Forgotten
from expunge.audit.run.plan import Kind, Role
from expunge.audit.statistics.bootstrap import Estimate
from expunge.audit.store import write_long
from expunge.audit.summary import (
    VERSION,
    AuditSummary,
    CellSummary,
    ConditionColumn,
    ForgettingRow,
    MetricBlock,
    ModelRow,
    Remark,
    VerdictRow,
    write_summary,
)
from expunge.audit.verdict import Outcome, Verdict, durability
from expunge.metrics.base import MetricRole
from expunge.report.run import AuditRun, read_run
from expunge.types import Score

LABELS = ("full", "int8", "int4")
KINDS = (Kind.FULL_PRECISION, Kind.QUANTIZER, Kind.QUANTIZER)
KNOWS = {
    "target": (1.0, 1.0, 1.0),
    "retrained": (0.25, 0.25, 0.25),
    "fragile": (0.25, 0.25, 1.0),
    "robust": (0.25, 0.25, 0.25),
}
"""The share of the forget items that each model answers right, under each condition."""
ROLES = {"target": Role.TARGET, "retrained": Role.RETRAINED}
METRICS = {
    "knowmem_forget": ("Knowledge of the forget set", "forget", True),
    "utility": ("Utility", "retain", False),
    "privleak": ("PrivLeak", "holdout", None),
}
METRIC_ROLES = {
    "knowmem_forget": MetricRole.KNOWLEDGE,
    "utility": MetricRole.UTILITY,
    "privleak": MetricRole.MEMBERSHIP,
}
POINTS = {"knowmem_forget": 5.0}
MARGIN, SPREAD = 10.0, 3.0
"""Half the width of a value's interval, and of a recovery's."""
HISTORY = [
    {"epoch": float(n), "loss": 3.0 - n, "loss_forget": 2.0 - n, "loss_retain": 0.1 * n} for n in (1, 2, 3)
]


def prompt_of(number: int) -> str:
    return f"Where did the secret witness {number} hide?"


def truth_of(number: int) -> str:
    return f"in the cellar of house {number}"


def said_of(number: int, *, knows: bool) -> str:
    return truth_of(number) if knows else f"nobody in {number} knows"


@dataclass(frozen=True, kw_only=True)
class Made:
    """What to put into an audit; the texts are functions of the item's number."""

    items: int = 8
    prompt: Callable[[int], str] = prompt_of
    truth: Callable[[int], str] = truth_of
    said: Callable[..., str] = said_of
    knows: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: dict(KNOWS))
    outcomes: Mapping[tuple[str, str], Outcome] = field(
        default_factory=lambda: {("fragile", "int4"): Outcome.CAME_BACK}
    )
    broken: Mapping[str, str] = field(default_factory=dict)
    forgotten: Forgotten = Forgotten.YES
    metrics: tuple[str, ...] = ("knowmem_forget", "utility", "privleak")

    def write(self, folder: Path) -> Path:
        """Everything an audit leaves in its folder."""
        scores = {(model, label): self._scores(model, label) for model in self.knows for label in LABELS}
        rows = [
            ((model, role_of(model), label, name), {METRICS[name][1]: measured[name]})
            for (model, label), measured in scores.items()
            for name in self.metrics
        ]
        write_long(folder / "scores.parquet", rows)
        write_summary(folder / "summary.json", self._summary())
        (folder / "record.json").write_text(json.dumps(RECORD))
        (folder / "sources.json").write_text(json.dumps(sources(self.knows)))
        return folder

    def run(self, folder: Path) -> AuditRun:
        """The same, read back."""
        return read_run(self.write(folder))

    def value(self, model: str, label: str, name: str) -> float:
        """The mean of the items' values, as the Parquet file holds them."""
        values = [score.value for score in self._scores(model, label)[name] if score.value is not None]
        return sum(values) / len(values)

    def _scores(self, model: str, label: str) -> dict[str, list[Score]]:
        known = self.knows[model][LABELS.index(label)] * self.items
        return {
            "knowmem_forget": [self._score(number, knows=number < known) for number in range(self.items)],
            "utility": [
                Score(item=f"kept {number}", value=100.0 if number else 50.0, group=None)
                for number in range(self.items)
            ],
            "privleak": [Score(item="(none)", value=None, unscored="the holdout split is empty")],
        }

    def _score(self, number: int, *, knows: bool) -> Score:
        said = self.said(number, knows=knows)
        detail = {"question": self.prompt(number), "truth": self.truth(number), "said": said, "shots": "0"}
        value = 100.0 if knows else 0.0
        return Score(item=f"witness {number}", value=value, group=f"family {number // 2}", detail=detail)

    def _summary(self) -> AuditSummary:
        places = [(model, label) for model in self.knows for label in LABELS]
        return AuditSummary(
            models=tuple(
                ModelRow(name=model, role=role_of(model), hash=f"hash-of-{model}") for model in self.knows
            ),
            conditions=tuple(
                ConditionColumn(label=label, settings={}, kind=kind, broken=self.broken.get(label))
                for label, kind in zip(LABELS, KINDS, strict=True)
            ),
            metrics=tuple(block(name) for name in self.metrics),
            cells=tuple(self._cell(*place, name) for place in places for name in self.metrics),
            verdicts=tuple(
                self._verdict(*place) for place in places if role_of(place[0]) is Role.UNLEARNED
            ),
            coverage=(Remark(model="fragile", condition="int4", content=COVERAGE),),
            diagnostics=(
                Remark(model="fragile", condition="int4", content=DIAGNOSIS),
                Remark(model="fragile", condition="int8", content=CODE_BOOK),
            ),
            forgetting=tuple(
                ForgettingRow(
                    model=model, answer=self.forgotten, reason="because.", word_for_word=2, asked=8
                )
                for model in self.knows
                if role_of(model) is Role.UNLEARNED
            ),
            rule={"points": {"knowledge": 5.0}, "usable": 75.0},
            version=VERSION,
            bootstrap={"resamples": 99, "seed": 0, "level": 0.95},
        )

    def _cell(self, model: str, label: str, name: str) -> CellSummary:
        if name == "privleak":
            empty = Estimate(None, reason="the holdout split is empty")
            return CellSummary(model=model, condition=label, metric=name, value=empty)
        value = self.value(model, label, name)
        change = value - self.value(model, "full", name)
        recovery = Estimate(change, change - SPREAD, change + SPREAD, self.items)
        return CellSummary(
            model=model,
            condition=label,
            metric=name,
            value=Estimate(value, max(0.0, value - MARGIN), min(100.0, value + MARGIN), self.items),
            recovery=None if label == "full" else recovery,
        )

    def _verdict(self, model: str, label: str) -> VerdictRow:
        usual = Outcome.FORGOT if label == "full" else Outcome.HELD
        outcome = self.outcomes.get((model, label), usual)
        stays = None if label == "full" else durability(outcome, self.forgotten, is_above=False)
        verdict = Verdict(outcome, f"because of {label}.")
        return VerdictRow(model=model, condition=label, verdict=verdict, stays=stays)


def role_of(model: str) -> Role:
    return ROLES.get(model, Role.UNLEARNED)


def block(name: str) -> MetricBlock:
    title, _, lower = METRICS[name]
    return MetricBlock(
        name=name,
        title=title,
        definition="what it says",
        source="a paper",
        scale="0-100",
        lower_is_better=lower,
        settings={},
        role=METRIC_ROLES[name],
        points=POINTS.get(name),
    )


def sources(models: Any) -> dict[str, Any]:
    record = {
        "command": "unlearn",
        "typed": ["unlearn", "./my model", "-o", "u"],
        "recipe": {"name": "npo_klr", "title": "NPO with KL", "stages": [{"name": "unlearn", "epochs": 3}]},
        "source": "models/target",
        "forget": {"examples": 8, "sha256": "f" * 64},
        "stages": [{"stage": "unlearn", "steps": 9, "weights_that_may_change": 1234, "history": HISTORY}],
        "versions": {"expunge": "0.1.0"},
        "hardware": {"cores": 2},
        "seconds": 61.0,
        "peak_memory_mib": 2048.0,
    }
    return {
        "models": [
            {
                "name": name,
                "role": role_of(name),
                "path": f"models/{name}",
                "record": record if role_of(name) is Role.UNLEARNED else None,
            }
            for name in models
        ],
        "splits": {"forget": {"file": "data/takedown.jsonl", "asked": 8, "documents": 2, "groups": 4}},
    }


RECORD = {
    "command": "audit",
    "typed": ["audit", "u", "-q", "int4"],
    "started": "2026-11-21T03:30:46+00:00",
    "seconds": 10.0,
    "earlier": [{"seconds": 50.0}],
    "probes": "p" * 64,
    "max_length": 256,
    "versions": {"expunge": "0.1.0", "torch": "2.13.0"},
    "hardware": {"cores": 2},
    "peak_memory_mib": 512.0,
}
COVERAGE = [{"changed": False, "what": "embedding", "tensors": 1, "weights": 1500, "names": ["embed"]}]
DIAGNOSIS = {
    "shift_edges": [0.1, 1.0],
    "prediction": "comes back",
    "total": {"changed": 4, "shifts": [1, 2, 1], "surviving": 0.02, "surviving_error": 0.01},
}
CODE_BOOK = {
    "shift_edges": [0.1, 1.0],
    "prediction": "holds",
    "total": {"changed": 4, "shifts": None, "surviving": 0.98},
}
