"""``--weights``: the diagnostics of checkpoints without asking them anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.audit.run import diagnose as module
from expunge.audit.run.diagnose import COLUMNS, WeightsJob, table
from expunge.errors import OutputError, RecipeError
from expunge.quant import parse_quantizer
from expunge.quant.buckets import diagnose
from tests.tiny import tiny


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    """A target, a model unlearned from it in bf16, and one of another architecture."""
    target, unlearned = tiny("llama"), tiny("llama")
    with torch.no_grad():
        for parameter in unlearned.parameters():
            parameter.add_(1e-4)
    for name, model in {"target": target, "unlearned": unlearned, "other": tiny("qwen2")}.items():
        model.save_pretrained(tmp_path / name)
    stage = {"name": "unlearn", "learning_rate": 1e-5, "precision": "bf16"}
    (tmp_path / "unlearned" / "record.json").write_text(json.dumps({"recipe": {"stages": [stage]}}))
    return {
        "models": [str(tmp_path / "unlearned")],
        "target": str(tmp_path / "target"),
        "quantizers": ["int4", "int8-tensor"],
        "output": tmp_path / "out",
    }


def test_it_says_what_a_comparison_of_the_models_says(
    job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(module, "load_model")  # no model is loaded
    told: list[str] = []
    found = WeightsJob(**job).run(told.append)
    assert [line.rpartition(" · ")[2] for line in told] == ["int4", "int8-tensor"]
    before = type(tiny("llama")).from_pretrained(job["target"])
    after = type(tiny("llama")).from_pretrained(job["models"][0])
    for each, name in zip(found, job["quantizers"], strict=True):
        report = diagnose(before, after, parse_quantizer(name), lr=1e-5, precision="bf16").to_dict()
        assert each == {"model": job["models"][0]} | report
    assert json.loads((tmp_path / "out" / "weights.json").read_text()) == json.loads(json.dumps(found))
    assert found[0]["total"]["movable_in_zero_share"] == 1.0
    assert json.loads((tmp_path / "out" / "record.json").read_text())["command"] == "audit --weights"


def test_the_table_has_a_row_for_each(job: dict[str, Any], tmp_path: Path) -> None:
    job["models"].append(str(tmp_path / "other"))
    header, *rows = table(WeightsJob(**job).run())
    assert header == ("model", "quantizer", *COLUMNS, "predicts")
    assert [row[1] for row in rows] == ["int4", "int8-tensor"] * 2
    assert all(len(row) == len(header) for row in rows)
    assert rows[0][-1] in ("holds", "comes back")
    assert rows[0][header.index("in zero")] == "100.00%"
    assert rows[2][2:9] == ("–",) * 7
    assert rows[2][-1].startswith("not comparable with the target")


def test_a_second_comparison_replaces_the_first_and_nothing_else(job: dict[str, Any]) -> None:
    WeightsJob(**job).run()
    WeightsJob(**job).run()
    (job["output"] / "weights.json").rename(job["output"] / "thesis.json")
    with pytest.raises(OutputError, match="already exists"):
        WeightsJob(**job).run()


@pytest.mark.parametrize("missing", [{"target": None}, {"models": []}, {"quantizers": []}])
def test_what_it_compares_must_be_named(job: dict[str, Any], missing: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="--weights: it compares the weights"):
        WeightsJob(**job | missing).run()
    assert not job["output"].exists()
