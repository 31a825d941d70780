"""Recipes for quantized deployment, as an owner runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import expunge

SETS = ("--forget", "forget.jsonl", "--retain", "retain.jsonl")


def quick(stage: str = "") -> list[str]:
    settings = ("epochs=2", "batch_size=2", "learning_rate=1e-3")
    return [part for setting in settings for part in ("--set", stage + setting)]


@pytest.mark.parametrize("adversary", ["fake_quant", "sam"])
def test_an_adversary_is_a_setting_of_any_recipe(owner: Path, adversary: str) -> None:
    said = expunge(
        *("unlearn", "target", *SETS, *quick(), "-r", "npo_klr_sure", "-o", "unlearned"),
        *("--set", f"adversary.name={adversary}", "--set", "save_every=1"),
    )
    assert said.code == 0, said.err
    record = json.loads((owner / "unlearned" / "record.json").read_text())
    assert record["recipe"]["stages"][0]["adversary"]["name"] == adversary
    history = record["stages"][0]["history"]
    assert "loss_forget_perturbed" in history[-1]
    assert ("loss_forget" in history[-1]) == (adversary == "fake_quant")


def test_a_floor_after_unlearning(owner: Path) -> None:
    said = expunge(
        *("unlearn", "target", *SETS, *quick("stages.0."), "-r", "npo_gdr_floor", "-o", "unlearned")
    )
    assert said.code == 0, said.err
    _, floor = json.loads((owner / "unlearned" / "record.json").read_text())["stages"]
    assert floor["stage"] == "floor"
    assert floor["raised"] > 0


def test_what_cannot_combine_is_refused_before_anything_runs(owner: Path) -> None:
    said = expunge(
        *("unlearn", "target", *SETS, "-r", "npo_gdr_sam", "--set", "precision=bf16", "-o", "unlearned")
    )
    assert said.code != 0
    assert "adversary 'sam' moves weights by less than bf16 weights can hold" in said.plain
    assert not (owner / "unlearned").exists()
    said = expunge(*("unlearn", "target", *SETS, *quick(), "-r", "npo_gdr_floor", "-o", "unlearned"))
    assert "does not have exactly one stage" in said.plain


def test_what_a_kill_left_goes_although_the_command_is_refused(owner: Path) -> None:
    (owner / "out").mkdir()
    (owner / "out" / "model.safetensors").touch()
    left = owner / ".out.partial.expunge-abcd1234" / "removed"
    left.mkdir(parents=True)
    said = expunge("unlearn", "target", "--forget", "forget.jsonl", "--retain", "retain.jsonl", "-o", "out")
    assert said.code == 2
    assert "already exists" in said.plain
    assert not left.parent.exists()
    assert (owner / "out" / "model.safetensors").exists()
