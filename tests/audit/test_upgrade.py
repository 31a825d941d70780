"""Summaries of earlier versions are read under the names of today."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expunge.audit.forgetting import Durability, Forgotten
from expunge.audit.statistics.bootstrap import Conclusion
from expunge.audit.store import LONG, read_long
from expunge.audit.summary import read_summary
from expunge.audit.upgrade import ROLES, upgraded
from expunge.audit.verdict import Outcome
from expunge.metrics import metrics
from expunge.metrics.base import MetricRole

OLD: dict[str, Any] = {
    "models": [
        {"name": "target", "role": "target", "hash": "a"},
        {"name": "u", "role": "unlearned", "hash": "b"},
    ],
    "transforms": [{"label": "full", "settings": {}}, {"label": "int4", "settings": {}}],
    "metrics": [
        {
            "name": "second_phrasing",
            "title": "t",
            "definition": "d",
            "source": "s",
            "scale": "0-100",
            "lower_is_better": True,
            "settings": {},
            "misleads": "when guessed",
            "notable": 5.0,
        }
    ],
    "cells": [
        {
            "model": "u",
            "transform": "int4",
            "metric": "second_phrasing",
            "value": {"value": 3.0, "n": 4},
            "recovery": {"value": 1.0, "n": 4, "told": "cannot tell"},
        }
    ],
    "verdicts": [{"model": "u", "transform": "int4", "verdict": {"outcome": "held", "reason": "r"}}],
    "coverage": [],
    "diagnostics": [],
    "rule": {"points": {"knowmem_forget": 5.0}, "notable": 5.0},
    "bootstrap": {"resamples": 99, "seed": 0, "level": 0.95},
    "version": 2,
    "left_out": [{"metric": "neighbours", "title": "n", "lacks": ["neighbours"]}],
    "wanted": [{"name": "neighbours", "option": "--neighbours FILE", "what": "w", "adds": "a"}],
}


def test_a_summary_of_version_2_is_read(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(OLD))
    summary = read_summary(path)
    assert [column.label for column in summary.conditions] == ["full", "int4"]
    assert (summary.metrics[0].name, summary.metrics[0].caveats) == ("paraphrase_questions", "when guessed")
    assert summary.metrics[0].minimal_difference == 5.0
    cell = summary.cell("u", "int4", "paraphrase_questions")
    assert cell.recovery is not None
    assert cell.recovery.conclusion is Conclusion.CANNOT_TELL
    assert summary.skipped[0].missing == ("neighbours",)
    assert summary.missing_inputs[0].option == "--neighbours FILE"
    assert summary.rule["minimal_difference"] == 5.0


def test_a_summary_of_today_is_left_alone() -> None:
    today = {"version": 5, "transforms": "whatever"}
    assert upgraded(today) is today
    assert upgraded([1]) == [1]


def test_scores_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    row = dict.fromkeys(LONG.names, "x") | {"value": 1.0, "detail": "{}"}
    row["transform"] = row.pop("condition")
    schema = pa.schema(
        [field.with_name("transform") if field.name == "condition" else field for field in LONG]
    )
    pq.write_table(pa.Table.from_pylist([row], schema=schema), tmp_path / "scores.parquet")
    (read,) = read_long(tmp_path / "scores.parquet")
    assert read["condition"] == "x"
    assert "transform" not in read


def test_the_roles_of_metrics_are_known_by_their_names_before_version_5() -> None:
    named = [{"name": name} for name in ("knowmem_forget", "utility", "someones_own")]
    old = {"version": 4, "metrics": named, "rule": {"points": {"knowmem_forget": 5.0}}}
    read = [(row["role"], row["points"]) for row in upgraded(old)["metrics"]]
    assert read == [("knowledge", 5.0), ("utility", None), ("other", None)]


def test_the_roles_of_earlier_versions_are_those_of_today() -> None:
    assert {name: metrics[name].role.value for name in ROLES} == ROLES
    # No earlier version could measure these.
    later = {"leak_at_k", "extractable", "near_verbatim", "sampled_leak_at_k"}
    others = {name for name in metrics if name not in ROLES} - later
    assert {metrics[name].role for name in others} == {MetricRole.OTHER}


def estimate(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "n": 40}


@pytest.mark.parametrize(
    ("excess", "answer", "outcome", "stays"),
    [
        (estimate(0.0, -3.0, 3.0), Forgotten.YES, Outcome.FORGOT, Durability.STAYS_FORGOTTEN),
        (estimate(20.0, 10.0, 30.0), Forgotten.PARTLY, Outcome.FORGOT_IN_PART, Durability.NO_WORSE),
        (None, Forgotten.CANNOT_TELL, Outcome.CANNOT_TELL, Durability.NO_WORSE),  # version 1 had none
    ],
)
def test_earlier_versions_answer_both_questions_from_their_numbers(
    tmp_path: Path, excess: Any, answer: Forgotten, outcome: Outcome, stays: Durability
) -> None:
    knows = {"metric": "knowmem_forget"}
    u = {
        "model": "u",
        "retention": estimate(30.0, 20.0, 40.0),
        "value": estimate(30.0, 20.0, 40.0),
        **knows,
    }
    old = OLD | {
        "models": [*OLD["models"], {"name": "control", "role": "retrained", "hash": "c"}],
        "metrics": [OLD["metrics"][0] | {"name": "knowmem_forget"}],
        "cells": [
            {"model": "target", "transform": "full", "value": estimate(95.0, 90.0, 99.0), **knows},
            {**u, "transform": "full", "excess": excess},
            {**u, "transform": "int4", "excess": None},
        ],
        "verdicts": [
            {"model": "u", "transform": label, "verdict": {"outcome": verdict, "reason": "r"}}
            for label, verdict in (("full", "forgot"), ("int4", "held"))
        ],
    }
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(old))
    summary = read_summary(path)
    row = summary.forgotten("u")
    assert row is not None
    assert (row.answer, row.word_for_word) == (answer, None)
    verdict = summary.verdict("u", "full")
    assert verdict is not None
    assert verdict.outcome is outcome
    assert (summary.stays("u", "full"), summary.stays("u", "int4")) == (None, stays)
