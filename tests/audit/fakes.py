"""Models that know a share of the answers, conditions that change which, and an audit plan of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from expunge.audit.run.grid import Audit
from expunge.audit.run.plan import AuditPlan, ModelSource, Role
from expunge.condition import Applied, Condition, ConditionContext, Kind
from expunge.metrics import metrics
from expunge.metrics.probes import Probes
from expunge.quant.base import TensorCoverage
from tests.metrics.fakes import FakeObserver, question

ITEMS = 40


class Knower(nn.Module):
    """Answers the first ``share`` of a split's questions; ``shares`` by condition label and split."""

    def __init__(self, shares: dict[str, dict[str, float]]) -> None:
        super().__init__()
        self.shares = shares
        self.state = "full"

    def say(self, prompt: Any) -> str:
        split, number = str(prompt).rsplit("Question: ", 1)[1].split("?")[0].split(" ")
        knows = self.shares[self.state].get(split, 0.0)
        return f"answer {number}" if int(number) < knows * ITEMS else "no idea"


class Rounding(Condition):
    """A quantizer in name: the model answers from its shares under ``name``."""

    kind: ClassVar[Kind] = Kind.QUANTIZER

    name: str
    strength: int = 1

    @property
    def label(self) -> str:
        return self.name

    @contextmanager
    def under(self, model: nn.Module, context: ConditionContext, result: Any = None) -> Iterator[Applied]:
        assert isinstance(model, Knower)
        model.state = self.name
        try:
            covered = TensorCoverage(name="w", shape=(2, 3), how="rounded")
            alone = TensorCoverage(name="norm", shape=(2,), why_not="a norm")
            yield Applied(model=model, coverage=(covered, alone))
        finally:
            model.state = "full"


@dataclass
class Log:
    """What an audit did: which models it loaded, and under which condition it measured how often."""

    loaded: list[str] = field(default_factory=list)
    measured: list[str] = field(default_factory=list)


def observe(log: Log | None, model: nn.Module, tokenizer: Any, plan: AuditPlan) -> FakeObserver:
    assert isinstance(model, Knower)
    if log is not None:
        log.measured.append(model.state)
    return FakeObserver(say=model.say)


def load(name: str, shares: dict[str, dict[str, float]], log: Log | None) -> tuple[nn.Module, None]:
    if log is not None:
        log.loaded.append(name)
    return Knower(shares), None


def source(
    name: str,
    role: Role = Role.UNLEARNED,
    *,
    full: tuple[float, float],
    int4: tuple[float, float] = (1.0, 1.0),
    log: Log | None = None,
    hashed: str | None = None,
) -> ModelSource:
    """A model by the shares of (forget, retain) it answers at full precision and at int4."""
    shares = {
        state: dict(zip(("forget", "retain"), pair, strict=True))
        for state, pair in {"full": full, "int4": int4}.items()
    }
    return ModelSource(
        name=name, role=role, hash=hashed or f"hash of {name}", load=partial(load, name, shares, log)
    )


def probes(items: int = ITEMS) -> Probes:
    return Probes(
        forget=tuple(question(f"f{n}", f"forget {n}?", f"answer {n}") for n in range(items)),
        retain=tuple(question(f"r{n}", f"retain {n}?", f"answer {n}") for n in range(items)),
    )


def plan_of(
    *models: ModelSource, conditions: tuple[Condition, ...] = (Rounding(name="int4"),), **settings: Any
) -> AuditPlan:
    names = ("knowmem_forget", "utility")
    chosen = settings.pop("metrics", tuple(metrics.build({"name": name}) for name in names))
    given = {"probes": probes(), "resamples": 999, **settings}
    return AuditPlan(models=models, metrics=chosen, conditions=conditions, **given)


def audit(plan: AuditPlan, folder: Path, log: Log | None = None, **settings: Any) -> Audit:
    return Audit(plan=plan, folder=folder, observe=partial(observe, log), **settings)
