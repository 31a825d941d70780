"""Whether a stop rule was reached is said where a run ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import expunge

UNLEARN = ("unlearn", "target", "--forget", "forget.jsonl", "-r", "ga", "--set", "epochs=1")


@pytest.mark.usefixtures("owner")
def test_the_command_says_it_and_still_ends_well() -> None:
    said = expunge(*UNLEARN, "--set", "stop.forget_at_most=0", "--set", "learning_rate=1e-9", "-o", "out")
    assert said.code == 0
    assert "out (stop rule not reached)" in said.out
    assert "warning stop rule not reached in 1 epoch: forget " in said.err
    assert "(at most 0); KnowMem of 3 of 3 examples, without solved questions" in said.err
    said = expunge(*UNLEARN, "--set", "stop.forget_at_most=100", "-o", "easy")
    assert said.code == 0
    assert "stop rule reached after epoch 1: forget " in said.out
    assert "not reached" not in said.out + said.err


@pytest.mark.usefixtures("owner")
def test_the_control_sets_the_level() -> None:
    said = expunge(*UNLEARN, "--retrained", "target", "-o", "controlled")
    assert said.code == 0
    record = json.loads(Path("controlled/record.json").read_text())
    (stage,) = record["stages"]
    assert record["recipe"]["stages"][0]["stop"]["control"] == str(Path("target").absolute())
    measured = stage["stop"]["levels"]["forget"]
    assert f"(at most {measured:.4g})" in said.out  # a model at its own level has nothing to forget
    assert f"--target target --retrained {Path('target').absolute()} --forget" in said.out
    said = expunge(*UNLEARN, "--retrained", "nowhere", "-o", "none")
    assert said.code != 0
    assert "nowhere" in said.err
    assert not Path("none").exists()
