from __future__ import annotations

import io

from rich.console import Console

from expunge.audit.run.plan import Role
from expunge.audit.statistics.bootstrap import Estimate
from expunge.audit.summary import (
    AuditSummary,
    CellSummary,
    ConditionColumn,
    MetricBlock,
    ModelRow,
    Remark,
    VerdictRow,
)
from expunge.audit.verdict import Outcome, Verdict
from expunge.bench.demo import narrate
from expunge.metrics.base import MetricRole

GRIDS = ("int8", "int4")
KNOWN = {"fragile": (5.0, 5.0, 55.0), "robust": (6.0, 4.0, 8.0)}
"""KnowMem of the forget set at full precision, int8 and int4."""
KNOWMEM = MetricBlock(
    name="knowmem_forget",
    title="Knowledge of the forget set",
    definition="",
    source="",
    scale="0-100",
    lower_is_better=True,
    settings={},
    role=MetricRole.KNOWLEDGE,
)
OUTCOMES = {
    "fragile": (Outcome.HELD, Outcome.CAME_BACK),
    "robust": (Outcome.HELD, Outcome.HELD),
}


def cells(model: str) -> list[CellSummary]:
    full, *others = KNOWN[model]
    made = [CellSummary(model=model, condition="full", metric="knowmem_forget", value=Estimate(full))]
    return made + [
        CellSummary(
            model=model,
            condition=grid,
            metric="knowmem_forget",
            value=Estimate(value),
            recovery=Estimate(value - full),
        )
        for grid, value in zip(GRIDS, others, strict=True)
    ]


def summary(*, diagnosed: bool = True) -> AuditSummary:
    shares = {("fragile", "int8"): 0.93, ("fragile", "int4"): 0.07, ("robust", "int8"): 1.0}
    return AuditSummary(
        models=(
            ModelRow(name="target", role=Role.TARGET, hash="0"),
            *(ModelRow(name=name, role=Role.UNLEARNED, hash=name) for name in KNOWN),
        ),
        conditions=tuple(ConditionColumn(label=label, settings={}) for label in ("full", *GRIDS)),
        metrics=(KNOWMEM,),
        cells=tuple(cell for name in KNOWN for cell in cells(name)),
        verdicts=tuple(
            VerdictRow(model=name, condition=grid, verdict=Verdict(outcome, "for a reason."))
            for name, outcomes in OUTCOMES.items()
            for grid, outcome in zip(GRIDS, outcomes, strict=True)
        ),
        coverage=(),
        diagnostics=tuple(
            Remark(model=model, condition=grid, content={"total": {"surviving": share}, "prediction": "-"})
            for (model, grid), share in shares.items()
            if diagnosed
        ),
        rule={},
        bootstrap={},
    )


def told(found: AuditSummary, *, styled: bool = False) -> list[str]:
    out = io.StringIO()
    system = "truecolor" if styled else None
    Console(file=out, width=120, force_terminal=styled, color_system=system).print(narrate(found))
    return out.getvalue().splitlines()


def row(name: str, lines: list[str]) -> list[str]:
    return next(line.split() for line in lines if line.split()[:1] == [name])


def test_each_prediction_stands_beside_what_happened() -> None:
    lines = told(summary())
    assert any(line.split() == ["int8", "int4"] for line in lines)
    assert row("fragile", lines) == "fragile 0.93 0.07 !".split()
    assert row("robust", lines) == "robust 1.00 -".split()  # int4 was not diagnosed


def test_the_target_is_left_out() -> None:
    assert not any(line.startswith("target") for line in told(summary()))


def test_what_came_back_is_red() -> None:
    (fragile,) = (line for line in told(summary(), styled=True) if "fragile" in line)
    assert "\x1b[1;31m0.07 !" in fragile
    assert "\x1b[1;31m0.93" not in fragile


def test_without_diagnostics_nothing_is_predicted() -> None:
    assert row("fragile", told(summary(diagnosed=False))) == ["fragile", "-", "-"]
