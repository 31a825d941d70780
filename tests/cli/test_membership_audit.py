"""Likelihood, memorisation and membership through the command line, on a target that knows its set."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from expunge.audit.summary import read_summary
from tests.cli.conftest import expunge, write_rows

KNOWN = ("probability", "exact_memorisation", "extraction_strength", "memorisation_accuracy", "familiarity")
EXTRACTED = ("extraction_likelihood", "sensitive_accuracy", "sensitive_extraction", "exposure")
ATTACKS = ("mia_loss", "mia_zlib", "mia_min_k_pp", "mia_gradnorm", "mia_reference", "mia_tpr", "privleak")


def asked(*names: str) -> list[str]:
    return [part for name in names for part in ("--metric", name)]


def with_spans(path: Path) -> Path:
    """The forget set again, its towns marked as what is sensitive."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    marked = [{**row, "spans": [[3, len(row["answer"]) - 1]]} for row in rows]
    return write_rows(path.with_name("marked.jsonl"), marked)


def values(output: Path, model: str) -> dict[str, Any]:
    summary = read_summary(output / "summary.json")
    return {metric.name: summary.cell(model, "full", metric.name).value for metric in summary.metrics}


@pytest.fixture
def audited(owner: Path) -> Path:
    said = expunge(
        *("audit", "target", "--retrained", "retrained", "--forget", with_spans(owner / "forget.jsonl")),
        *("--holdout", "holdout.jsonl", "--output", "audit", "--max-length", "128"),
        *asked(*KNOWN, *EXTRACTED, *ATTACKS),
    )
    assert said.code == 0, said.err
    return owner / "audit"


def test_a_target_that_knows_its_forget_set_shows_it_everywhere(audited: Path) -> None:
    target, control = values(audited, "target"), values(audited, "retrained")
    for name in (
        "probability",
        "exact_memorisation",
        "extraction_strength",
        "sensitive_accuracy",
        "exposure",
    ):
        assert target[name].value > control[name].value, name
    assert target["probability"].value > 0.9
    assert target["sensitive_extraction"].value == pytest.approx(1.0)
    for name in ("mia_loss", "mia_min_k_pp", "mia_reference"):
        assert target[name].value == 0.0  # every forget text looks more trained-on than any holdout text
    assert target["mia_tpr"].value == 1.0
    assert control["mia_reference"].value == 0.5
    assert control["privleak"].value is None
    assert "3 forget x 2 holdout texts" in control["privleak"].reason  # six pairs are too few
    assert all(0 <= target[name].value <= 1 for name in ("mia_gradnorm", "mia_zlib"))
    too_short = target["extraction_likelihood"]
    assert too_short.value is None
    assert "too short" in str(too_short.reason)


@pytest.mark.slow
def test_two_processes_leave_the_audit_one_does(owner: Path) -> None:
    audit = (
        *("audit", "target", "--forget", "forget.jsonl", "--holdout", "holdout.jsonl"),
        *asked("probability", "knowmem_forget", "auc"),
    )
    alone = expunge(*audit, "--output", "alone")
    assert alone.code == 0, alone.err
    launch = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1")
    settings = ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")
    said = subprocess.run(
        [sys.executable, *launch, *settings, "-m", "expunge", *audit, "--output", "shared"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.count("numbers:") == 1  # one of them tells the result
    ours, theirs = values(owner / "shared", "target"), values(owner / "alone", "target")
    assert {name: each.value for name, each in ours.items()} == pytest.approx(
        {name: each.value for name, each in theirs.items()}, rel=1e-5
    )
