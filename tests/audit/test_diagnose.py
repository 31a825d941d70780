from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from expunge.audit.run import diagnose as module
from expunge.audit.run.diagnose import Checkpoint, diagnose
from expunge.audit.run.plan import FULL
from expunge.errors import ModelError
from expunge.quant import parse_quantizer
from expunge.quant.buckets import diagnose as compare_weights
from expunge.quant.rtn import RTN
from tests.tiny import tiny

INT4 = RTN(bits=4)


def unlearned(folder: Path | None = None) -> nn.Module:
    """The tiny model with every weight moved a little, as if it lay in ``folder``."""
    model = tiny("llama")
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1e-3)
    model.name_or_path = str(folder or "somewhere")
    return model


class Target:
    """Loads the tiny model and counts how often."""

    def __init__(self) -> None:
        self.loaded = 0

    def __call__(self) -> tuple[nn.Module, None]:
        self.loaded += 1
        return tiny("llama"), None


def record(folder: Path, *stages: dict[str, Any]) -> Path:
    (folder / "record.json").write_text(json.dumps({"recipe": {"stages": list(stages)}}))
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The learning rate and precision that the weights were compared with."""
    seen: dict[str, Any] = {}

    def spy(target: nn.Module, model: nn.Module, quantizer: RTN, **training: Any) -> Any:
        seen.update(training)
        return compare_weights(target, model, quantizer, **training)

    monkeypatch.setattr(module, "compare_weights", spy)
    return seen


def test_it_is_the_comparison_with_the_target() -> None:
    model = unlearned()
    found = diagnose(Target(), model, INT4)
    assert found == compare_weights(tiny("llama"), model, INT4, lr=None, precision=None).to_dict()
    assert found["total"]["changed"] > 0


def test_json_can_hold_it() -> None:
    found = diagnose(Target(), unlearned(), INT4)
    assert json.loads(json.dumps(found, allow_nan=False)).keys() == found.keys()


def test_full_precision_loads_nothing() -> None:
    target = Target()
    assert diagnose(target, unlearned(), FULL) == {}
    assert target.loaded == 0


def test_the_target_is_loaded_once_for_all_transforms() -> None:
    target = Target()
    for bits in (3, 4, 8):
        diagnose(target, unlearned(), RTN(bits=bits))
    assert target.loaded == 1


def test_a_target_in_files_is_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny("llama").save_pretrained(tmp_path)
    model = unlearned()
    expected = diagnose(Target(), model, INT4)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("it was loaded")

    monkeypatch.setattr(module, "load_model", fail)
    assert diagnose(Checkpoint(str(tmp_path)), model, INT4) == expected


def test_another_architecture_is_told_and_stops_nothing() -> None:
    found = diagnose(Target(), tiny("qwen2"), INT4)
    assert found["comparable"] is False
    assert found["why_not"].startswith("not comparable with the target: model.layers.0.")
    assert found["prediction"] is None
    assert "total" not in found
    wider = diagnose(Target(), tiny("llama", intermediate_size=40), INT4)
    assert "has another shape" in wider["why_not"]


def test_a_target_that_is_broken_is_still_refused() -> None:
    model = unlearned()
    with torch.no_grad():
        next(model.parameters())[0, 0] = float("nan")
    with pytest.raises(ModelError, match="is not finite"):
        diagnose(Target(), model, INT4)


def test_a_calibrated_quantizer_is_said_to_be_rounded_to_nearest() -> None:
    model = unlearned()
    found = diagnose(Target(), model, parse_quantizer("gptq4"))
    assert found["codes"] == "nearest on its grid, not calibrated"
    same = diagnose(Target(), model, parse_quantizer("int4-sym_half"))
    assert found["total"] == same["total"]
    assert found["prediction"] is None  # error feedback may carry the change into other weights
    assert same["prediction"] is not None


def test_the_record_beside_the_checkpoint_says_how_it_was_trained(
    tmp_path: Path, asked: dict[str, Any]
) -> None:
    first = {"name": "finetune", "learning_rate": 1e-3, "precision": "fp32"}
    last = {"name": "unlearn", "learning_rate": 3e-5, "precision": "bf16"}
    folder = record(tmp_path, first, {"name": "subtract"}, last)
    found = diagnose(Target(), unlearned(folder), INT4)
    assert asked == {"lr": 3e-5, "precision": "bf16"}
    assert found["total"]["movable"] is not None


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "[]",
        '{"recipe": "of somebody else"}',
        '{"recipe": {"stages": 3}}',
        '{"recipe": {"stages": ["ga"]}}',
        '{"command": "quantize"}',
        b"\xff\xfe",
    ],
)
def test_a_record_of_others_says_nothing(
    tmp_path: Path, asked: dict[str, Any], content: str | bytes
) -> None:
    raw = content.encode() if isinstance(content, str) else content
    (tmp_path / "record.json").write_bytes(raw)
    diagnose(Target(), unlearned(tmp_path), INT4)
    assert asked == {"lr": None, "precision": None}


def test_without_a_record_nothing_is_assumed(tmp_path: Path, asked: dict[str, Any]) -> None:
    diagnose(Target(), unlearned(tmp_path), INT4)
    assert asked == {"lr": None, "precision": None}
