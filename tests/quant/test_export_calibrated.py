"""Writing a checkpoint under a quantizer that reads text first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.errors import DataError, RecipeError
from expunge.model.arch import linear_layers, weight_oi
from expunge.model.load import load_model, load_tokenizer, save_model
from expunge.quant import parse_quantizer
from expunge.quant.calibration import CalibrationSource
from expunge.quant.export import QuantizeJob
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    save_model(tiny("llama", vocab_size=BYTES_VOCAB), tiny_tokenizer(all_bytes=True), folder)
    return str(folder)


def written(job: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    QuantizeJob(**job).run()
    record: dict[str, Any] = json.loads((job["output"] / "record.json").read_text())
    return job["output"], record


@pytest.mark.parametrize("name", ["gptq4-g16", "awq4"])
def test_what_is_written_is_what_is_applied(name: str, model: str, tmp_path: Path) -> None:
    job = {"model": model, "to": name, "output": tmp_path / "out", "samples": 4, "length": 24, "seed": 7}
    job["format"] = "values"
    folder, record = written(job)
    assert record["calibration"].keys() == {
        "name",
        "samples",
        "length",
        "seed",
        "texts_sha256",
        "tokens_sha256",
    }
    assert record["calibration"]["name"] == "self"
    source = load_model(model)
    text = CalibrationSource(samples=4, length=24, seed=7).tokens(
        source, load_tokenizer(model, model=source)
    )
    assert record["calibration"]["tokens_sha256"] == text.hash
    again = load_model(str(folder))
    with parse_quantizer(name).applied(source, text):
        for layer, module in linear_layers(source).items():
            assert torch.equal(weight_oi(again.get_submodule(layer)), weight_oi(module))


def test_text_of_the_users_own_is_named(model: str, tmp_path: Path) -> None:
    path = tmp_path / "some.txt"
    path.write_text("The harbour froze in the third winter, and nobody came. " * 30)
    job = {"model": model, "to": "gptq4", "output": tmp_path / "out", "calibrate": str(path), "length": 24}
    _, record = written(job)
    assert record["calibration"]["name"] == "general (some.txt)"
    assert 5 < record["calibration"]["samples"] < 128
    missing = job | {"output": tmp_path / "other", "calibrate": str(tmp_path / "none.txt")}
    with pytest.raises(DataError):
        QuantizeJob(**missing).run()
    assert not (tmp_path / "other").exists()


def test_text_that_nobody_would_read_is_refused(model: str, tmp_path: Path) -> None:
    job = QuantizeJob(model=model, to="int4", output=tmp_path / "out", calibrate="self")
    with pytest.raises(
        RecipeError, match=r"--calibrate self: none of the quantizers needs calibration text"
    ):
        job.run()
    assert written({"model": model, "to": "int4", "output": tmp_path / "plain"})[1]["calibration"] is None
