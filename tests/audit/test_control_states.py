"""An audit whose metric lays each model's distributions beside the retrained model's."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from expunge.audit.run.grid import Audit
from expunge.audit.run.plan import AuditPlan, ModelSource, Role
from expunge.metrics import metrics
from expunge.metrics.probes import Probes
from expunge.quant.rtn import RTN
from tests.metrics.fakes import document
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

NAMES = {"other": (Role.UNLEARNED, 2), "retrained": (Role.RETRAINED, 1), "same": (Role.UNLEARNED, 1)}


def load(name: str, loaded: list[str]) -> tuple[Any, Any]:
    loaded.append(name)
    return tiny("llama", seed=NAMES[name][1], vocab_size=BYTES_VOCAB), tiny_tokenizer(all_bytes=True)


def plan(loaded: list[str], *names: str) -> AuditPlan:
    return AuditPlan(
        models=tuple(
            ModelSource(name=name, role=NAMES[name][0], hash=name, load=partial(load, name, loaded))
            for name in names
        ),
        metrics=tuple(metrics.build({"name": name}) for name in ("jsd", "probability")),
        probes=Probes(forget=(document("a", "the rain in the town"), document("b", "words on the hill"))),
        conditions=(RTN(bits=4),),
        max_length=64,
        resamples=99,
    )


def test_every_model_is_compared_under_the_same_transform(tmp_path: Path) -> None:
    loaded: list[str] = []
    audit = Audit(plan=plan(loaded, *NAMES), folder=tmp_path)
    summary = audit.run()
    found = {name: [summary.cell(name, label, "jsd") for label in ("full", "int4")] for name in NAMES}
    assert all(cell.value.value > 0.01 for cell in found["other"])
    # The retrained model under a condition beside itself under it: nothing is between them.
    for name in ("same", "retrained"):
        assert [cell.value.value for cell in found[name]] == pytest.approx([0, 0], abs=1e-6)
    assert all(cell.excess is None for cell in found["other"])  # it is counted from the retrained model
    assert loaded == ["retrained", "other", "retrained", "same"]  # once for all, and before the others
    assert not (tmp_path / "cells" / "control_states").exists()
    Audit(plan=plan(loaded, *NAMES), folder=tmp_path).run()
    assert len(loaded) == 4


def test_another_control_is_another_distance_and_nothing_else_is_measured_again(tmp_path: Path) -> None:
    first = plan([], *NAMES)
    Audit(plan=first, folder=tmp_path).run()
    models = tuple(
        replace(each, hash="again") if each.role is Role.RETRAINED else each for each in first.models
    )
    missing = Audit(plan=replace(first, models=models), folder=tmp_path).missing()
    assert {(part.source.name, part.name) for part in missing} == {
        *((name, "jsd") for name in NAMES),
        ("retrained", "probability"),
    }


def test_a_killed_audit_finds_what_the_retrained_model_said(tmp_path: Path) -> None:
    loaded: list[str] = []

    def killed(done: int, total: int, what: str) -> None:
        if what.startswith("other"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Audit(plan=plan(loaded, *NAMES), folder=tmp_path).run(progress=killed)
    assert loaded == ["retrained", "other"]
    Audit(plan=plan(loaded, *NAMES), folder=tmp_path).run()
    assert loaded == ["retrained", "other", "other", "retrained", "same"]


def test_without_a_retrained_model_there_is_a_reason(tmp_path: Path) -> None:
    summary = Audit(plan=plan([], "other"), folder=tmp_path).run()
    assert summary.cell("other", "full", "jsd").value.value is None
    assert "retrained model" in (summary.cell("other", "full", "jsd").value.reason or "")
