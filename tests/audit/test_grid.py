from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from expunge.audit.run.grid import Audit
from expunge.audit.run.plan import AuditPlan, Role
from expunge.audit.summary import AuditSummary, read_summary
from expunge.audit.verdict import Outcome
from expunge.metrics import metrics
from tests.audit.fakes import Log, Rounding, audit, plan_of, probes, source


def models(log: Log | None = None) -> list[Any]:
    """At int4 ``npo`` knows it all again, ``sure`` does not, ``ga`` is broken, ``noop`` never forgot."""
    return [
        source("npo", full=(0.2, 0.9), int4=(0.9, 0.9), log=log),
        source("sure", full=(0.1, 0.9), int4=(0.1, 0.9), log=log),
        source("ga", full=(0.0, 0.1), int4=(0.0, 0.1), log=log),
        source("noop", full=(1.0, 1.0), int4=(1.0, 0.9), log=log),
        source("target", Role.TARGET, full=(1.0, 1.0), int4=(0.95, 0.95), log=log),
        source("retrained", Role.RETRAINED, full=(0.1, 1.0), int4=(0.1, 0.9), log=log),
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[AuditSummary, Path, AuditPlan]:
    folder, plan = tmp_path_factory.mktemp("audit"), plan_of(*models())
    return audit(plan, folder).run(), folder, plan


def test_values_recovery_and_retention(finished: tuple[AuditSummary, Path, AuditPlan]) -> None:
    summary, _, _ = finished
    cell = summary.cell("npo", "int4", "knowmem_forget")
    assert cell.value.value == pytest.approx(90.0)
    assert cell.value.n == 40
    assert cell.value.low < 90.0 < cell.value.high
    assert cell.recovery.value == pytest.approx(70.0)
    assert cell.retention.value == pytest.approx(100 * 90 / 95)
    assert summary.cell("npo", "full", "knowmem_forget").recovery is None
    assert summary.cell("target", "int4", "knowmem_forget").retention is None
    assert summary.cell("retrained", "full", "knowmem_forget").retention.value == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("model", "full", "int4"),
    [
        ("npo", Outcome.CANNOT_TELL, Outcome.CAME_BACK),  # 4 of 40 items more than the retrained model
        ("sure", Outcome.FORGOT, Outcome.HELD),
        ("ga", Outcome.UNUSABLE, Outcome.UNUSABLE),
        ("noop", Outcome.DID_NOT_FORGET, Outcome.DID_NOT_FORGET),
    ],
)
def test_verdicts(
    finished: tuple[AuditSummary, Path, AuditPlan], model: str, full: Outcome, int4: Outcome
) -> None:
    summary, _, _ = finished
    assert [summary.verdict(model, label).outcome for label in ("full", "int4")] == [full, int4]


def halved(*others: Any) -> tuple[Any, ...]:
    """Rounding takes half of what the target knows, and nothing of its utility."""
    return (
        source("target", Role.TARGET, full=(1.0, 1.0), int4=(0.5, 1.0)),
        source("retrained", Role.RETRAINED, full=(0.1, 1.0), int4=(0.1, 1.0)),
        *others,
    )


def test_a_return_is_judged_against_the_target_under_the_same_transform(tmp_path: Path) -> None:
    models = halved(
        source("back", full=(0.5, 1.0), int4=(0.5, 1.0)), source("gone", full=(0.2, 1.0), int4=(0.1, 1.0))
    )
    summary = audit(plan_of(*models), tmp_path).run()
    back, full = (summary.cell("back", label, "knowmem_forget") for label in ("int4", "full"))
    # (50 - 10) / (100 - 10) at full precision, (50 - 10) / (50 - 10) at int4; the rise times 90 points.
    assert back.recovery.value == 0.0
    assert full.retention_over_control.value == pytest.approx(44.444, abs=1e-3)
    assert back.retention_over_control.value == pytest.approx(100.0)
    assert back.recovery_against_target.value == pytest.approx(50.0)
    assert back.recovery_against_target.low > 30
    assert full.recovery_against_target is None
    assert summary.verdict("back", "int4").outcome is Outcome.CAME_BACK
    assert summary.verdict("gone", "int4").outcome is Outcome.HELD
    assert summary.cell("target", "int4", "knowmem_forget").retention_over_control is None
    int4 = summary.column("int4")
    assert int4.target_retention["knowmem_forget"].value == pytest.approx(100 * 40 / 90)
    assert int4.target_retention["utility"].value == pytest.approx(100.0)
    assert int4.broken is None


def test_without_a_retrained_model_a_share_is_of_the_target_s_whole_value(tmp_path: Path) -> None:
    target, _, back = halved(source("back", full=(0.5, 1.0), int4=(0.5, 1.0)))
    summary = audit(plan_of(target, back), tmp_path).run()
    cell = summary.cell("back", "int4", "knowmem_forget")
    assert cell.retention_over_control.value == cell.retention.value == pytest.approx(100.0)
    assert cell.recovery_against_target.value == pytest.approx(50.0)  # (100 % - 50 %) of 100 points
    assert summary.verdict("back", "int4").outcome is Outcome.CAME_BACK


def test_where_the_target_loses_nothing_a_return_is_the_rise(
    finished: tuple[AuditSummary, Path, AuditPlan],
) -> None:
    cell = finished[0].cell("npo", "int4", "knowmem_forget")
    # (90 - 10) / (95 - 10) - (20 - 10) / (100 - 10) of 90 points: the target lost 5 of them.
    assert cell.recovery_against_target.value == pytest.approx(90 * (80 / 85 - 10 / 90))
    assert cell.recovery.value == pytest.approx(70.0)


@pytest.mark.parametrize(
    ("int4", "lost"),
    [((1.0, 0.1), "10 % of its utility"), ((0.15, 1.0), "6 % of its knowmem_forget"), ((0.4, 0.3), "")],
)
def test_a_format_that_breaks_the_target_tells_nothing(
    tmp_path: Path, int4: tuple[float, float], lost: str
) -> None:
    target = source("target", Role.TARGET, full=(1.0, 1.0), int4=int4)
    control = source("retrained", Role.RETRAINED, full=(0.1, 1.0), int4=(0.1, 1.0))
    models = [
        source("sure", full=(0.1, 0.9), int4=(0.1, 0.3)),
        source("npo", full=(0.1, 0.9), int4=(0.9, 0.9)),
    ]
    summary = audit(plan_of(target, control, *models), tmp_path).run()
    assert bool(summary.column("int4").broken) is bool(lost)
    assert lost in (summary.column("int4").broken or "")
    outcomes = [summary.verdict(name, "int4").outcome for name in ("sure", "npo")]
    if lost:
        assert outcomes == [Outcome.CANNOT_TELL] * 2
        assert "this format breaks the model itself" in summary.verdict("sure", "int4").reason
    else:
        assert outcomes == [Outcome.HELD, Outcome.CAME_BACK]
    assert summary.verdict("sure", "full").outcome is Outcome.FORGOT


def test_a_target_that_knows_no_more_than_the_control_is_not_broken_by_losing_it(tmp_path: Path) -> None:
    target = source("target", Role.TARGET, full=(0.125, 1.0), int4=(0.05, 1.0))
    control = source("retrained", Role.RETRAINED, full=(0.1, 1.0), int4=(0.1, 1.0))
    column = audit(plan_of(target, control), tmp_path).run().column("int4")
    share = column.target_retention["knowmem_forget"]
    assert (share.value, share.reason) == (None, "the target has too little at full precision to lose any")
    assert column.broken is None


def test_target_and_retrained_are_not_judged(finished: tuple[AuditSummary, Path, AuditPlan]) -> None:
    assert {row.model for row in finished[0].verdicts} == {"npo", "sure", "ga", "noop"}
    assert finished[0].verdict("target", "full") is None


def test_files(finished: tuple[AuditSummary, Path, AuditPlan]) -> None:
    summary, folder, _ = finished
    assert read_summary(folder / "summary.json") == summary
    rows = pq.read_table(folder / "scores.parquet")
    assert rows.num_rows == 6 * 2 * 2 * 40
    assert rows.column_names == [
        "model", "role", "condition", "metric", "split", "item", "group", "value", "unscored", "detail",
    ]  # fmt: skip
    record = json.loads((folder / "record.json").read_text())
    assert record["parts"] == {"measured": 24, "all": 24}
    assert record["earlier"] == []
    assert record["models"][0] == {"name": "npo", "role": "unlearned", "hash": "hash of npo"}
    assert "NaN" not in (folder / "summary.json").read_text()


def test_coverage_is_reported_for_transforms(finished: tuple[AuditSummary, Path, AuditPlan]) -> None:
    remarks = {(each.model, each.condition): each.content for each in finished[0].coverage}
    assert {condition for _, condition in remarks} == {"int4"}
    assert remarks["npo", "int4"][1]["names"] == ["norm"]


def test_a_finished_audit_loads_nothing_and_says_the_same(tmp_path: Path) -> None:
    log = Log()
    plan = plan_of(*models(log)[:1])
    first = audit(plan, tmp_path, log).run()
    assert (log.loaded, log.measured) == (["npo"], ["full", "int4"])
    again = audit(plan, tmp_path, log).run()
    assert (log.loaded, log.measured) == (["npo"], ["full", "int4"])
    assert again == first
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["parts"] == {"measured": 0, "all": 4}
    assert [run["parts"]["measured"] for run in record["earlier"]] == [4]
    # Looking once more adds nothing to the history.
    audit(plan, tmp_path, log).run()
    assert len(json.loads((tmp_path / "record.json").read_text())["earlier"]) == 1


def test_a_killed_audit_computes_only_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    plan = plan_of(*models(log)[:2])
    done: list[str] = []

    def killed(count: int, total: int, what: str) -> None:
        done.append(what)
        if len(done) == 6:  # before the second cell of the second model
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(plan, tmp_path, log).run(progress=killed)
    assert len(list((tmp_path / "cells").iterdir())) == 5
    assert not (tmp_path / "summary.json").exists()
    told: list[tuple[int, int, str]] = []
    audit(plan, tmp_path, log).run(progress=lambda *where: told.append(where))
    assert log.loaded == ["npo", "sure", "sure"]
    assert log.measured == ["full", "int4", "full", "full", "int4"]
    assert told == [
        (0, 3, "sure · full · utility"),
        (1, 3, "sure · int4 · knowmem_forget"),
        (2, 3, "sure · int4 · utility"),
        (3, 3, ""),
    ]


def test_what_changes_is_measured_again_and_nothing_else(tmp_path: Path) -> None:
    def missing(plan: AuditPlan) -> int:
        return len(audit(plan, tmp_path).missing())

    plan = plan_of(*models()[:2])
    audit(plan, tmp_path).run()
    assert missing(plan) == 0
    retrained_npo = replace(plan.models[0], hash="other bytes")
    assert missing(replace(plan, models=(retrained_npo, plan.models[1]))) == 4
    assert missing(replace(plan, probes=probes(items=5))) == 8
    assert missing(replace(plan, conditions=(Rounding(name="int4", strength=2),))) == 4
    assert missing(replace(plan, conditions=(*plan.conditions, Rounding(name="int8")))) == 4
    shots = metrics.build({"name": "utility", "shots": 3})
    assert missing(replace(plan, metrics=(plan.metrics[0], shots))) == 4
    assert missing(replace(plan, max_length=99)) == 8
    # A name, a role and the bootstrap are no part of a score.
    assert missing(replace(plan, models=(replace(plan.models[0], name="x", role=Role.TARGET),))) == 0
    assert missing(replace(plan, seed=5, resamples=50)) == 0


def test_two_names_of_the_same_bytes_are_measured_once(tmp_path: Path) -> None:
    log = Log()
    twins = [source(name, full=(0.5, 0.5), log=log, hashed="same") for name in ("a", "b")]
    summary = audit(plan_of(*twins), tmp_path, log).run()
    assert log.loaded == ["a"]
    assert summary.cell("a", "int4", "utility").value == summary.cell("b", "int4", "utility").value


def test_one_model_is_held_at_a_time(tmp_path: Path) -> None:
    import gc
    import weakref

    alive: list[weakref.ref[Any]] = []
    seen: list[int] = []

    def watched(original: Any) -> Any:
        def load() -> Any:
            gc.collect()
            seen.append(sum(ref() is not None for ref in alive))
            model, tokenizer = original()
            model.itself = [model]  # a cycle, as hooks make them
            alive.append(weakref.ref(model))
            return model, tokenizer

        return load

    plan = plan_of(*(replace(each, load=watched(each.load)) for each in models()[:3]))
    audit(plan, tmp_path).run()
    assert seen == [0, 0, 0]


def test_diagnostics_are_asked_once_per_unlearned_model_and_transform(tmp_path: Path) -> None:
    calls: list[tuple[str, str]] = []

    def diagnose(load_target: Any, model: Any, condition: Any) -> dict[str, Any]:
        target, _ = load_target()
        calls.append((model.state, condition.label))
        return {"same": float(target.shares["full"]["forget"])}

    plan = plan_of(models()[0], models()[4], models()[5])
    for _ in range(2):
        summary = audit(plan, tmp_path, diagnose=diagnose).run()
    assert calls == [("full", "int4")]
    (remark,) = summary.diagnostics
    assert (remark.model, remark.condition, remark.content) == ("npo", "int4", {"same": 1.0})


def test_without_target_or_hook_there_are_no_diagnostics(tmp_path: Path) -> None:
    plan = plan_of(models()[0])
    assert audit(plan, tmp_path).run().diagnostics == ()
    with_hook = Audit(plan=plan, folder=tmp_path, diagnose=lambda *_: {})
    assert len(with_hook.all_parts()) == 4


def test_without_a_target_nothing_is_judged_forgotten(tmp_path: Path) -> None:
    summary = audit(plan_of(models()[1]), tmp_path).run()
    assert summary.verdict("sure", "full").outcome is Outcome.CANNOT_TELL
    assert summary.cell("sure", "full", "utility").retention.reason == "the audit has no target model"


def test_an_unmeasurable_metric_has_a_reason_and_no_number(tmp_path: Path) -> None:
    plan = plan_of(
        *models()[:1], metrics=(metrics.build({"name": "verbmem"}), metrics.build({"name": "privleak"}))
    )
    plan = replace(plan, probes=replace(plan.probes, forget=plan.probes.forget[:1]), conditions=())
    # privleak reads log-probabilities; the fake gives none to an empty holdout and the one question.
    summary = Audit(plan=plan, folder=tmp_path, observe=blind).run()
    assert summary.cell("npo", "full", "verbmem").value.reason == "the forget split has no documents"
    assert summary.cell("npo", "full", "privleak").value.value is None


def blind(model: Any, tokenizer: Any, plan: AuditPlan) -> Any:
    from tests.metrics.fakes import FakeObserver

    return FakeObserver(logps={"f0": [-1.0]})


@pytest.mark.slow
def test_workers_find_what_one_process_finds(tmp_path: Path) -> None:
    plan = plan_of(*models()[:3])
    alone = audit(plan, tmp_path / "alone").run()
    told: list[tuple[int, int, str]] = []
    together = audit(plan, tmp_path / "together").run(workers=2, progress=lambda *now: told.append(now))
    assert together == alone
    counts = [done for done, *_ in told]
    assert counts[-1] == 12
    assert counts == sorted(counts)
    assert any(" · " in what for *_, what in told)  # what they are at, not only how many are done
    assert not (tmp_path / "together" / "doing").exists()


@pytest.mark.slow
def test_an_error_in_a_worker_is_not_swallowed(tmp_path: Path) -> None:
    broken = replace(models()[0], load=broken_load)
    with pytest.raises(RuntimeError, match="no such checkpoint"):
        audit(plan_of(broken, models()[1]), tmp_path).run(workers=2)


def broken_load() -> Any:
    raise RuntimeError("no such checkpoint")
