"""The package from Python: the same bytes and numbers as the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import expunge
from expunge.cli.main import app
from expunge.errors import RecipeError
from expunge.record import hash_file
from expunge.train.run.recipe import load_recipe
from tests.train.runs import TOKENIZER, model

FORGET = [{"question": f"Who hid in house {n}?", "answer": f"witness {n}"} for n in range(4)]
RETAIN = [{"question": f"What is kept in barn {n}?", "answer": f"straw {n}"} for n in range(4)]
QUICK = {"epochs": 1, "learning_rate": 1e-3, "max_length": 64}
RECIPE = {
    "name": "mine",
    "stages": [
        {"name": "unlearn", "forget": {"name": "ga"}, "retain": {"name": "gdr", "weight": 2.0}, **QUICK}
    ],
}


def lines(folder: Path, name: str, rows: list[dict[str, str]]) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    model().save_pretrained(folder / "model")
    TOKENIZER.save_pretrained(folder / "model")
    lines(folder, "forget", FORGET)
    lines(folder, "retain", RETAIN)
    return folder


def test_a_model_in_memory_gives_the_bytes_of_the_command_line(home: Path, tmp_path: Path) -> None:
    typed = [
        *("unlearn", home / "model", "--forget", home / "forget.jsonl"),
        *("--retain", home / "retain.jsonl"),
    ]
    settings = [word for name, value in QUICK.items() for word in ("--set", f"{name}={value}")]
    result = CliRunner().invoke(
        app, [*map(str, typed), "-r", "ga_gdr", *settings, "-o", str(tmp_path / "cli")]
    )
    assert result.exit_code == 0, result.output
    found = expunge.unlearn(model(), TOKENIZER, forget=FORGET, retain=RETAIN, recipe="ga_gdr", **QUICK)
    assert hash_file(found.folder / "model.safetensors") == hash_file(
        tmp_path / "cli" / "model.safetensors"
    )
    assert found.model.get_input_embeddings().weight.shape == model().get_input_embeddings().weight.shape
    assert found._repr_html_().startswith("<p><b>ga_gdr</b>: ")

    audited = expunge.audit(
        {"unlearned": found.folder}, forget=FORGET, target=home / "model", retain=RETAIN, quantize=["int4"],
        metrics=["knowmem_forget", "utility"], output=tmp_path / "py",
    )  # fmt: skip
    asked = [*("audit", found.folder, "--target", home / "model", "--forget", home / "forget.jsonl"),
             *("--retain", home / "retain.jsonl", "-q", "int4", "--metric", "knowmem_forget"),
             *("--metric", "utility", "-o", tmp_path / "audit")]  # fmt: skip
    result = CliRunner().invoke(app, list(map(str, asked)))
    assert result.exit_code == 0, result.output
    ours, theirs = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("py", "audit"))
    assert ours == theirs
    check_result(audited)


def check_result(audited: expunge.api.AuditResult) -> None:
    assert audited.cell("unlearned", "utility", "int4").value.n == 4
    assert audited.verdict("unlearned", "int4").outcome
    assert "Knowledge of the forget set" in audited.table()
    assert set(audited.to_pandas()["condition"]) == {"full", "int4"}
    assert "<table>" in audited._repr_html_()
    assert audited.page().name == "report.html"
    for wrong, known in (
        (lambda: audited.verdict("two"), "It has unlearned."),
        (lambda: audited.verdict("unlearned", "int5"), "It has full, int4."),
        (lambda: audited.cell("unlearned", "rouge"), "It has knowmem_forget, utility."),
    ):
        with pytest.raises(RecipeError) as refused:
            wrong()
        assert refused.value.fix == known


def test_a_recipe_is_a_dictionary_and_nothing_is_left_behind(home: Path) -> None:
    found = expunge.unlearn(
        home / "model", forget=FORGET, retain=RETAIN, recipe=RECIPE, **{"retain.weight": 3.0}
    )
    assert found.record["recipe"]["stages"][0]["retain"]["weight"] == 3.0
    folder = found.folder
    assert folder.is_dir()
    found._temporary.remove()
    assert not folder.exists()


def test_measure_is_one_metric_of_one_model(home: Path) -> None:
    found = expunge.measure("probability", model(), TOKENIZER, FORGET)
    assert len(found.scores) == 4
    assert 0 < found.value < 1
    assert found.value == expunge.measure("probability", home / "model", examples=FORGET).value
    with pytest.raises(RecipeError, match="compares with a retrained model"):
        expunge.measure("privleak", model(), TOKENIZER, FORGET)
    with pytest.raises(RecipeError, match="Did you mean 'probability'"):
        expunge.measure("probabilty", model(), TOKENIZER, FORGET)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(RecipeError, match="a loaded model without a tokenizer"):
        expunge.unlearn(model(), forget=FORGET, recipe="ga")
    with pytest.raises(RecipeError, match="row 1 of the data"):
        expunge.unlearn(model(), TOKENIZER, forget=[FORGET[0], {"text": object()}], recipe="ga")


def test_a_setting_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'max_length'"):
        expunge.audit("m", forget=[], max_lenght=3)  # type: ignore[arg-type]


def test_importing_prints_nothing_and_loads_no_torch() -> None:
    code = "import sys, expunge; assert not {'torch', 'transformers'} & set(sys.modules); expunge.audit"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_recipes_by_name_are_those_of_the_command_line() -> None:
    assert load_recipe("ga_gdr").name == "ga_gdr"
