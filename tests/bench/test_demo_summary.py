from __future__ import annotations

import io

from rich.console import Console

from expunge.audit.forgetting import Forgotten
from expunge.audit.run.plan import Role
from expunge.audit.statistics.bootstrap import Estimate
from expunge.audit.summary import (
    AuditSummary,
    CellSummary,
    ConditionColumn,
    ForgettingRow,
    MetricBlock,
    ModelRow,
    Remark,
    VerdictRow,
)
from expunge.audit.verdict import Outcome, Verdict
from expunge.bench.demo import KEPT, LOST, narrate
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


def test_each_grid_stands_beside_what_happened() -> None:
    lines = told(summary())
    (heading,) = [line for line in lines if "int8" in line and "int4" in line and "→" not in line]
    rows = {line.split()[0]: line for line in lines if "→" in line and ":" not in line and "." in line}
    assert heading.split() == ["int8", "int4"]
    assert rows["fragile"].split() == "fragile 0.93 → held 0.07 → came back".split()
    assert rows["robust"].split() == "robust 1.00 → held -".split()  # int4 was not diagnosed


def test_the_target_is_not_told_of() -> None:
    assert not any(line.startswith("target") for line in told(summary()))


def test_a_sentence_says_what_is_known_at_worst() -> None:
    lines = told(summary())
    assert "fragile: knows 5 of 100 at full precision, 55 at worst (int4)." in lines
    assert "robust: knows 6 of 100 at full precision, 8 at worst (int4)." in lines


def test_what_came_back_is_red() -> None:
    red, green = "\x1b[31m", "\x1b[32m"
    sentences = {
        line.split(":")[0][5:]: line[:5] for line in told(summary(), styled=True) if ": knows" in line
    }
    assert (LOST, KEPT) == ("red", "green")
    assert sentences == {"fragile": red, "robust": green}


def test_without_diagnostics_the_outcomes_stay_untold_and_the_sentences_are_said() -> None:
    lines = told(summary(diagnosed=False))
    assert [line.split()[1:] for line in lines if line.split()[:1] == ["fragile"]] == [["-", "-"]]
    assert sum("at worst" in line for line in lines) == 2


def test_whether_a_model_forgot_is_said_and_only_a_yes_is_green() -> None:
    rows = tuple(
        ForgettingRow(model=name, answer=answer, reason="because.")
        for name, answer in (("fragile", Forgotten.YES), ("robust", Forgotten.PARTLY))
    )
    lines = told(summary().model_copy(update={"forgetting": rows}), styled=True)
    (robust,) = (line for line in lines if "robust: knows" in line)
    assert robust.startswith("\x1b[33m")
    assert "8 at worst (int4). Forgotten: partly." in robust
