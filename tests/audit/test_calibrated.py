"""An audit under quantizers that read text first: what it records, keeps apart, and measures."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch

from expunge.audit.run.grid import Audit, observe
from expunge.audit.run.plan import AuditPlan, ModelSource, Role
from expunge.errors import RecipeError
from expunge.metrics import metrics
from expunge.metrics.probes import Probes
from expunge.quant.awq import AWQ
from expunge.quant.calibration import CalibrationSource
from expunge.quant.gptq import GPTQ
from expunge.quant.rtn import RTN
from tests.audit.printed import to_text
from tests.metrics.fakes import document
from tests.tiny import tiny, tiny_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from expunge.inference.observer import Observer

TEXT = "Ada lives in Arbon and Bo lives in Brugg, Cleo in Cham."
CALLS: list[str] = []


def load(seed: int) -> tuple[Any, Any]:
    return tiny("llama", seed=seed), tiny_tokenizer()


def noting(model: nn.Module, tokenizer: Any, plan: AuditPlan) -> Observer:
    CALLS.append(str(model.model.layers[1].mlp.up_proj.weight.detach().double().sum().item()))
    return observe(model, tokenizer, plan)


def plan_of(calibration: CalibrationSource | None, *conditions: Any) -> AuditPlan:
    return AuditPlan(
        models=(ModelSource(name="m", role=Role.UNLEARNED, hash="m", load=partial(load, 0)),),
        metrics=(metrics.build({"name": "verbmem", "prompt_tokens": 4, "new_tokens": 4}),),
        probes=Probes(forget=(document("a", TEXT), document("b", TEXT[::-1]))),
        conditions=conditions,
        calibration=calibration,
    )


def source(**settings: Any) -> CalibrationSource:
    return CalibrationSource(**{"samples": 4, "length": 16, **settings})


def test_a_calibrated_quantizer_without_text_is_refused() -> None:
    assert plan_of(None, RTN()).calibration_of(RTN()) is None
    with pytest.raises(RecipeError, match=r"gptq4 without calibration text.*--calibrate self"):
        plan_of(None, RTN(), GPTQ())


def test_other_text_is_another_cell_and_plain_quantizers_share_theirs(tmp_path: Path) -> None:
    CALLS.clear()

    def run(calibration: CalibrationSource) -> dict[str, Any]:
        plan = plan_of(calibration, RTN(), GPTQ(bits=3))
        Audit(plan=plan, folder=tmp_path, observe=noting).run()
        record: dict[str, Any] = json.loads((tmp_path / "record.json").read_text())
        return record

    first = run(source())
    assert first["parts"] == {"measured": 3, "all": 3}
    assert [each["calibration"] and each["calibration"]["name"] for each in first["conditions"]] == [
        None,
        None,
        "self",
    ]
    assert run(source())["parts"]["measured"] == 0
    assert run(source(seed=1))["parts"]["measured"] == 1
    assert run(source(length=8))["parts"]["measured"] == 1
    assert len(set(CALLS)) == len(CALLS) == 5
    assert torch.isfinite(torch.tensor([float(call) for call in CALLS])).all()


def test_the_text_is_named_in_summary_table_and_coverage(tmp_path: Path) -> None:
    summary = Audit(plan=plan_of(source(), AWQ(group_size=16), RTN()), folder=tmp_path).run()
    line = "awq4-g16: calibrated on self, at most 4 x 16 tokens, seed 0"
    assert line in to_text(summary)
    assert "int4: calibrated" not in to_text(summary)
    assert summary.conditions[1].calibration == source().facts
    done = [
        group["what"]
        for remark in summary.coverage
        if remark.condition == "awq4-g16"
        for group in remark.content
        if group["changed"]
    ]
    assert len(done) == 1
    assert done[0].endswith("calibrated on 4 x 16 tokens of self, seed 0")


def test_every_model_writes_its_text_once_for_all_quantizers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    tokens = CalibrationSource.tokens

    def counted(self: CalibrationSource, *given: Any) -> Any:
        written.append(1)
        return tokens(self, *given)

    monkeypatch.setattr(CalibrationSource, "tokens", counted)
    Audit(plan=plan_of(source(), AWQ(), GPTQ(), GPTQ(bits=3)), folder=tmp_path).run()
    assert len(written) == 1
