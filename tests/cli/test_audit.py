"""What an auditor types who has little: a model and a forget set, or several seeds of one recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from expunge.metrics import metrics
from tests.cli.conftest import expunge

ALONE = ("audit", "target", "--forget", "forget.jsonl", "-o", "out")


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def test_a_model_and_a_forget_set_are_enough(owner: Path) -> None:
    said = expunge(*ALONE, "--verbose")
    assert (said.code, said.err) == (0, "")
    assert max(map(len, said.out.splitlines()[:-2])) <= 80
    plain = " ".join(said.out.split())
    for option in ("--target MODEL", "--retrained MODEL", "--retain FILE", "--holdout FILE"):
        assert option in plain
    assert "without it there is no verdict" in plain
    assert "the model still gives the forgotten text: 3 of 3 answers word for word." in plain
    summary = summary_of(owner / "out")
    assert {row["verdict"]["outcome"] for row in summary["verdicts"]} == {"did not forget"}
    measured = {metric["name"] for metric in summary["metrics"]}
    skipped = {each["metric"]: each["missing"] for each in summary["skipped"]}
    assert "knowmem_forget" in measured
    assert skipped["privleak"] == ["holdout", "retrained"]
    assert measured | skipped.keys() == {name for name in metrics if metrics[name].default}
    known = next(cell for cell in summary["cells"] if cell["metric"] == "knowmem_forget")
    assert known["value"]["value"] == 100.0


def test_what_comes_back_is_told_without_a_target(owner: Path) -> None:
    assert expunge(*ALONE, "-q", "int3", "--metric", "knowmem_forget").code == 0
    (cell,) = (each for each in summary_of(owner / "out")["cells"] if each["condition"] == "int3")
    assert cell["retention"]["reason"] == "the audit has no target model"
    assert cell["recovery"]["conclusion"] in ("differs", "same", "cannot tell")


def test_an_edited_cell_is_named_and_measured_again(owner: Path) -> None:
    asked = (*ALONE, "--metric", "knowmem_forget")
    assert expunge(*asked).code == 0
    before = summary_of(owner / "out")
    (cell,) = (owner / "out" / "cells").glob("*.parquet")
    cell.write_bytes(cell.read_bytes()[:100])
    said = expunge(*asked)
    assert said.code == 0
    (line,) = (line for line in said.err.splitlines() if line.startswith("warning"))
    assert line == (
        f"warning target · full · knowmem_forget (cells/{cell.name}) was changed after it was measured, "
        "and has been measured again."
    )
    assert summary_of(owner / "out") == before


def test_metrics_by_name(owner: Path) -> None:
    said = expunge(*ALONE, "--verbose", "--metric", "knowmem_forget", "--metric", "utility")
    assert said.code == 0, said.err
    assert [metric["name"] for metric in summary_of(owner / "out")["metrics"]] == ["knowmem_forget"]
    assert "Skipped without it: utility." in " ".join(said.out.split())
    assert "Did you mean 'knowmem_forget'" in expunge(*ALONE, "--metric", "knowmen_forget").plain
    refused = expunge(*ALONE, "--metric", "privleak")
    assert refused.code == 2
    assert "it needs inputs that this audit lacks: holdout, retrained." in refused.plain


def test_leakage_under_sampling_can_decide_the_verdict(owner: Path) -> None:
    asked = ("audit", "retrained", "--target", "target", *ALONE[2:], "--metric", "leak_at_k:k=8,top_p=0.9")
    assert expunge(*asked).code == 0
    (verdict,) = (row["verdict"] for row in summary_of(owner / "out")["verdicts"])
    assert verdict["outcome"] == "cannot tell"
    said = expunge(*asked, "--verdict-on", "leak_at_k")
    assert said.code == 0, said.err
    summary = summary_of(owner / "out")
    assert summary["rule"]["on"] == ["leak_at_k"]
    (verdict,) = (row["verdict"] for row in summary["verdicts"])
    assert (verdict["outcome"], "of the target's leak_at_k" in verdict["reason"]) == ("forgot", True)
    (block,) = (each for each in summary["metrics"] if each["name"] == "leak_at_k")
    assert (block["points"], block["settings"]["k"], block["settings"]["top_p"]) == (5.0, 8, 0.9)
    values = {
        cell["model"]: cell["value"]["value"] for cell in summary["cells"] if cell["metric"] == "leak_at_k"
    }
    assert values["target"] > 99 > 1 > values["retrained"]
    rows = pq.read_table(owner / "out" / "scores.parquet").to_pylist()
    details = [json.loads(row["detail"]) for row in rows if row["metric"] == "leak_at_k"]
    assert {frozenset(detail) for detail in details} == {frozenset({"log_p", "tokens"})}
    assert "Asked again and again" in (owner / "out" / "report.html").read_text()


def test_only_a_metric_that_can_decide_may(owner: Path) -> None:
    refused = expunge(*ALONE, "--metric", "knowmem_forget", "--verdict-on", "exposure")
    assert refused.code == 2
    assert "only a metric decides of which lower is better, with a scale that has two ends" in refused.plain
    refused = expunge(*ALONE, "--metric", "knowmem_forget", "--verdict-on", "rouge_fill_in")
    assert "this audit cannot measure it: it lacks cloze." in refused.plain
    refused = expunge(*ALONE, "--metric", "leak_at_k:k=2", "--verdict-on", "leak_at_k:k=3")
    assert "metric 'leak_at_k' the audit names it more than once" in refused.plain
    refused = expunge(*ALONE, "--metric", "leak_at_k:top_p=0")
    assert "top_p: input should be greater than 0" in refused.plain


def test_what_was_said_is_kept_with_its_prompt_and_truth(owner: Path) -> None:
    assert expunge(*ALONE, "--metric", "knowmem_forget").code == 0
    rows = pq.read_table(owner / "out" / "scores.parquet").to_pylist()
    detail = json.loads(rows[0]["detail"])
    assert detail["question"].startswith("Question: Where does")
    assert detail["truth"] == detail["said"].strip()


@pytest.fixture
def seeds(owner: Path) -> Path:
    """One recipe with three seeds."""
    for seed in range(3):
        said = expunge(
            *(
                "unlearn",
                "target",
                "--forget",
                "forget.jsonl",
                "-r",
                "ga",
                "--seed",
                seed,
                "-o",
                f"s{seed}",
            ),
            *("--set", "learning_rate=3e-3", "--set", "epochs=2"),
        )
        assert said.code == 0, said.err
    return owner


def test_seeds_of_one_recipe_are_one_row(seeds: Path) -> None:
    asked = ("--target", "target", "--forget", "forget.jsonl", "--metric", "knowmem_forget", "-o", "out")
    said = expunge("audit", "--seeds-of", "mine=s0,s1,s2", *asked)
    assert (said.code, said.err) == (0, "")
    models = summary_of(seeds / "out")["models"]
    assert [(each["name"], each["seed_of"]) for each in models[1:]] == [
        ("s0", "mine"),
        ("s1", "mine"),
        ("s2", "mine"),
        ("mine", None),
    ]
    assert "mine " in said.out
    assert "mine: mean of 3 seeds (s0, s1, s2)" in said.out
    found = expunge("audit", "s0", "s1", "s2", *asked)  # their records differ in the seed alone
    assert found.code == 0, found.err
    assert summary_of(seeds / "out")["models"][-1]["seeds"] == ["s0", "s1", "s2"]
    assert summary_of(seeds / "out")["models"][-1]["name"] == "ga"


def test_bad_seeds_are_refused(owner: Path) -> None:
    one = expunge(*ALONE, "--seeds-of", "mine=retrained")
    assert one.code == 2
    assert "one seed gives no spread" in one.plain
    assert "NAME=path,path" in expunge(*ALONE, "--seeds-of", "mine").plain


def test_metrics_are_listed_and_explained() -> None:
    said = expunge("metrics")
    assert said.code == 0
    assert all(f" {name} " in said.out for name in metrics)
    assert max(map(len, said.out.splitlines()[:-1])) <= 80
    one = " ".join(expunge("metrics", "knowmem_forget").out.split())
    for text in ("lower is better", "Caveats", "What public implementations get wrong", "MUSE"):
        assert text in one
    unknown = expunge("metrics", "knowmem")
    assert unknown.code == 2
    assert "Did you mean 'knowmem_forget'" in unknown.plain
