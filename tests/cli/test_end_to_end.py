"""What an owner types, from the first training to the last audit."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from expunge.audit.run import diagnose
from expunge.catalogue import recipe_names, recipe_text
from expunge.train.run.outcome import ForgetLevels
from tests.cli.conftest import expunge, snapshot

SETS = ("--forget", "forget.jsonl", "--retain", "retain.jsonl")
QUICK = ("--set", "learning_rate=3e-3", "--set", "epochs=4")
LORA = ("npo_klr", "--set", "scope.name=lora", "--set", "scope.rank=2")
RECIPES = {"npo_klr": ("npo_klr",), "ga": ("ga",), "sure": ("npo_klr_sure",), "lora": LORA}


def record_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "record.json").read_text())
    return found


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def changed(before: Path, after: Path) -> set[str]:
    old, new = weights_of(before), weights_of(after)
    assert old.keys() == new.keys()
    return {name for name in old if not torch.equal(old[name], new[name])}


def test_finetune_from_nothing_leaves_a_model_that_learned(built: Path) -> None:
    record = record_of(built / "target")
    history = record["stages"][0]["history"]
    assert history[-1]["loss"] < history[0]["loss"] / 10
    assert record["retain"]["examples"] == 8
    assert "epochs: 40" in (built / "target" / "recipe.yaml").read_text()
    assert AutoModelForCausalLM.from_pretrained(built / "target").config.hidden_size == 32
    assert not (built / "target.partial").exists()


def test_the_control_reads_with_the_targets_tokenizer(built: Path) -> None:
    target, control = (built / name / "tokenizer.json" for name in ("target", "retrained"))
    assert control.read_bytes() == target.read_bytes()
    assert changed(built / "target", built / "retrained")


def test_finetune_goes_on_from_a_checkpoint(owner: Path) -> None:
    said = expunge(
        *("finetune", "--model", "target", "--data", "forget.jsonl", "--set", "epochs=1", "-o", "more"),
        *("--set", "learning_rate=1e-3"),
    )
    assert said.code == 0, said.err
    assert record_of(owner / "more")["source_sha256"] == record_of(owner / "target")["result_sha256"]
    assert changed(owner / "target", owner / "more")


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_unlearn(owner: Path, recipe: tuple[str, ...]) -> None:
    before = snapshot(owner)
    said = expunge("unlearn", "target", *SETS, *QUICK, "-r", *recipe, "-o", "unlearned")
    assert said.code == 0, said.err
    levels = ForgetLevels.of(record_of(owner / "unlearned"))
    assert levels is not None
    assert len(said.err.splitlines()) == said.err.count("nothing was forgotten") == levels.nothing_forgotten
    assert said.out.startswith("done in ")
    assert "next: expunge audit unlearned --target target --forget forget.jsonl" in said.out
    (stage,) = record_of(owner / "unlearned")["stages"]
    assert stage["steps"] == 4
    assert stage["history"][-1]["loss_forget"] < stage["history"][0]["loss_forget"]
    moved = changed(owner / "target", owner / "unlearned")
    assert moved
    if "npo_klr_sure" in recipe:
        assert moved <= set(stage["tensors_that_may_change"])
        assert 0 < stage["weights_that_may_change"] < stage["weights"]
    if recipe == LORA:  # merged: the embeddings wear no adapter
        assert stage["reference"] == "LiveReference"
        assert {"model.embed_tokens.weight", "lm_head.weight"}.isdisjoint(moved)
    after = snapshot(owner)
    assert {path for path in after if path.split("/")[0] != "unlearned"} == before.keys()
    assert all(after[path] == content for path, content in before.items())


def test_the_same_command_gives_the_same_bytes(owner: Path) -> None:
    for output in ("one", "two"):
        assert expunge("unlearn", "target", *SETS, *QUICK, "-o", output).code == 0
    assert changed(owner / "one", owner / "two") == set()


@pytest.fixture(scope="module")
def audited(built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A finished audit, and the command that made it."""
    home = tmp_path_factory.mktemp("audit")
    sets = ["--forget", str(built / "forget.jsonl"), "--retain", str(built / "retain.jsonl")]
    said = expunge("unlearn", built / "target", *sets, *QUICK, "-r", "ga", "-o", home / "unlearned")
    assert said.code == 0, said.err
    command = [
        *("audit", str(home / "unlearned"), "--target", str(built / "target")),
        *("--retrained", str(built / "retrained"), *sets, "--holdout", str(built / "holdout.jsonl")),
        *("-q", "int8", "-q", "int4", "-q", "nf4", "-o", str(home / "audit")),
    ]
    return home, command


def test_audit_measures_every_model_under_every_quantizer(audited: tuple[Path, list[str]]) -> None:
    home, command = audited
    said = expunge(*command, "--verbose")
    assert said.code == 0, said.err
    assert said.err == ""
    summary = json.loads((home / "audit" / "summary.json").read_text())
    assert [model["name"] for model in summary["models"]] == ["target", "retrained", "unlearned"]
    assert [column["label"] for column in summary["conditions"]] == ["full", "int8", "int4", "nf4"]
    for text in ("target", "retrained", "unlearned", "int4", "Utility", "PrivLeak", "Verdict"):
        assert text in said.out
    assert "summary.json" in said.out
    known = {
        cell["model"]: cell["value"]["value"]
        for cell in summary["cells"]
        if cell["metric"] == "knowmem_forget" and cell["condition"] == "full"
    }
    assert known["target"] == 100.0
    assert known["unlearned"] < known["target"]
    assert known["retrained"] < known["target"]


def test_an_audit_again_loads_nothing(
    audited: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, command = audited
    first = expunge(*command)

    def fail(path: str, **_: object) -> None:
        raise AssertionError(f"{path} was loaded")

    monkeypatch.setattr(diagnose, "load_model", fail)
    again = expunge(*command)
    assert (again.code, again.out) == (0, first.out)
    another = expunge(*command, "-q", "int3")
    assert another.code == 1  # the trap works: what is new must be measured
    assert "was loaded" in another.plain


def test_quantize_writes_rounded_values_that_any_tool_loads(owner: Path) -> None:
    said = expunge("quantize", "target", "-q", "int4", "--format", "values", "-o", "rounded")
    assert said.code == 0, said.err
    assert said.out.startswith("done 7 of 12 tensors rounded to int4 (values): rounded")
    assert "1 not quantized: embedding" in said.out
    moved = changed(owner / "target", owner / "rounded")
    coverage = json.loads((owner / "rounded" / "coverage.json").read_text())
    assert moved == {tensor["name"] for tensor in coverage if tensor["how"]}
    rows = weights_of(owner / "rounded")["model.layers.0.mlp.down_proj.weight"]
    assert max(len(row.unique()) for row in rows) <= 16
    AutoModelForCausalLM.from_pretrained(owner / "rounded")


def test_a_quantized_folder_is_audited_like_any_other(owner: Path) -> None:
    said = expunge("quantize", "target", "-q", "int4", "-o", "packed")
    assert said.code == 0, said.err
    assert said.out.startswith("done 7 of 12 tensors rounded to int4 (compressed-tensors): packed")
    asked = ("--forget", "forget.jsonl", "--metric", "knowmem_forget", "--max-items", "2")
    assert expunge("audit", "packed", *asked, "-o", "of-packed").code == 0
    assert expunge("audit", "target", *asked, "-q", "int4", "-o", "of-target").code == 0
    found = [json.loads(Path(name, "summary.json").read_text()) for name in ("of-packed", "of-target")]
    values = [
        [cell["value"]["value"] for cell in summary["cells"] if cell["condition"] == label]
        for summary, label in zip(found, ("full", "int4"), strict=True)
    ]
    assert values[0] == values[1] != []


def test_weights_are_compared_without_asking_anything(owner: Path) -> None:
    said = expunge("audit", "target", "--target", "target", "-q", "int4", "--weights", "-o", "compared")
    assert said.code == 0, said.err
    assert "same codes    100.00%" in said.out
    assert Path("compared", "weights.json").is_file()


def test_methods_lists_every_recipe_and_shows_one_byte_for_byte() -> None:
    said = expunge("methods")
    assert said.code == 0
    first = {line.split()[0] for line in said.out.splitlines() if line.strip()}
    assert {name for name in recipe_names() if len(name) < 19} <= first
    long = expunge("methods", "--long")
    assert len(long.out) > len(said.out)
    assert "train on that" in long.out  # of whp
    assert expunge("methods", "npo_klr_sure").out == recipe_text("npo_klr_sure")


def test_a_recipe_can_be_saved_changed_and_used(owner: Path) -> None:
    text = (
        expunge("methods", "ga")
        .out.replace("epochs: 10", "epochs: 1")
        .replace("name: ga\n", "name: mine\n", 1)
    )
    (owner / "mine.yaml").write_text(text)
    assert expunge("unlearn", "target", "--forget", "forget.jsonl", "-r", "mine.yaml", "-o", "u").code == 0
    assert record_of(owner / "u")["recipe"]["name"] == "mine"


def test_doctor_names_what_is_missing_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def without_peft(package: str) -> str:
        if package == "peft":
            raise importlib.metadata.PackageNotFoundError(package)
        return real(package)

    monkeypatch.setattr(importlib.metadata, "version", without_peft)
    said = expunge("doctor")
    assert said.code == 0
    assert 'pip install "expunge[lora]"' in said.out
    for fact in ("python", "torch", "memory free", "accelerator", "GiB free", "bitsandbytes"):
        assert fact in said.out


def test_version() -> None:
    import expunge as package

    assert expunge("--version").out == f"expunge {package.__version__}\n"


@pytest.mark.parametrize("verb", ["unlearn", "audit", "quantize", "finetune", "methods", "metrics"])
def test_help_teaches_by_an_example(verb: str) -> None:
    said = expunge(verb, "--help")
    assert said.code == 0
    assert f"Example: expunge {verb} " in " ".join(said.out.split())


@pytest.mark.parametrize("verb", ["demo", "doctor"])
def test_help_of_what_needs_nothing_says_so(verb: str) -> None:
    said = expunge(verb, "--help")
    assert said.code == 0
    assert f"Usage: expunge {verb} [OPTIONS]" in said.out


def test_a_run_killed_half_way_and_repeated_ends_with_the_same_bytes(owner: Path) -> None:
    command = ["unlearn", "target", *SETS, *QUICK]
    killed = in_a_process(KILLED_AT_STEP_3, *command, "-o", "killed")
    assert killed.returncode == -signal.SIGKILL
    assert (killed.stdout, killed.stderr) == ("", "")  # nor do libraries say anything until then
    assert not (owner / "killed").exists()
    assert (owner / "killed.partial" / "stage-0" / "checkpoint-2" / "complete").exists()
    assert expunge(*command, "-o", "killed").code == 0
    assert expunge(*command, "-o", "whole").code == 0
    assert weights_bytes(owner / "killed") == weights_bytes(owner / "whole")
    assert not (owner / "killed.partial").exists()


KILLED_AT_STEP_3 = """
import os, signal
from expunge.train.loop.callbacks import Heartbeat

def die(self, args, state, *_, **__):
    if state.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)

Heartbeat.on_step_end = die
"""


def test_the_command_proposed_next_works_and_says_nothing_else(owner: Path) -> None:
    said = expunge("unlearn", "target", *SETS, *QUICK, "-r", "ga", "-o", "my model")
    (proposed,) = [line for line in said.out.splitlines() if line.startswith("next: expunge ")]
    done = in_a_process("", *shlex.split(proposed)[2:])
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nreport: " in done.stdout


@pytest.mark.slow
def test_an_audit_with_workers_is_as_quiet(owner: Path) -> None:
    done = in_a_process(
        "", "audit", "target", "retrained", "--forget", "forget.jsonl", "-q", "nf4", "--workers", "2"
    )
    assert (done.returncode, done.stderr) == (0, "")


def weights_bytes(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def in_a_process(before: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line as installed, after some code."""
    # A process that already imports half the libraries must still be told to keep them quiet.
    code = f"from expunge.cli.main import quiet_libraries, run\nquiet_libraries()\n{before}\nrun()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
