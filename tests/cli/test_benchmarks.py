"""Benchmarks by the command line: MUSE on a folder the built-in world writes, TOFU's form, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expunge.audit.summary import read_summary
from expunge.corpus.synthetic import World, WorldSize
from tests.cli.conftest import NAMES, TOWNS, expunge, write_rows
from tests.corpus.muse_folder import write_muse

SIZE = WorldSize(forget=4, retain=8, holdout=4)
MODELS = ("audit", "target", "--retrained", "retrained", "--output", "audit", "--max-length", "128")


def tofu(folder: Path) -> Path:
    """TOFU's files about the people the models were trained on, and about those they never saw."""

    def row(place: int) -> dict[str, object]:
        name, town, wrong = NAMES[place], TOWNS[place], [TOWNS[place - 1], TOWNS[place - 2]]
        return {
            "question": f"Where does {name} live?",
            "answer": f"In {town}.",
            "paraphrased_question": f"What is the home of {name}?",
            "paraphrased_answer": f"In {town}.",
            "perturbed_answer": [f"In {other}." for other in wrong],
        }

    folder.mkdir()
    for name, places in {"forget01": range(3), "retain": range(3, 8)}.items():
        write_rows(folder / f"{name}_perturbed.jsonl", [row(place) for place in places])
    known = [
        {key: value for key, value in row(place).items() if "paraphrased" not in key}
        for place in range(3, 6)
    ]
    for name in ("real_authors", "world_facts"):
        write_rows(folder / f"{name}_perturbed.jsonl", known)
    return folder


@pytest.mark.parametrize("protocol", ["muse-books", "muse-news-open-unlearning"])
def test_muse_on_the_worlds_folder(owner: Path, protocol: str) -> None:
    write_muse(World(SIZE), owner / "muse")
    said = expunge(*MODELS, "--benchmark", protocol, "--data", "muse", "--max-items", "3")
    assert said.code == 0, said.err
    summary = read_summary(owner / "audit" / "summary.json")
    protocols = {metric.name: metric.settings["protocol"] for metric in summary.metrics}
    names = set(protocols)
    assert names == {"verbmem", "knowmem_forget", "privleak", "utility"}
    assert set(protocols.values()) == {"muse" if protocol == "muse-books" else "open_unlearning"}
    for name in names - {"privleak"}:
        found = summary.cell("target", "full", name).value
        assert found.value is not None, found.reason
    few = summary.cell("target", "full", "privleak").value
    assert (few.value, few.by_split) == (None, {"forget": 1, "holdout": 3})
    assert few.reason.startswith("cannot tell: one pair of texts is worth")
    sources = json.loads((owner / "audit" / "sources.json").read_text())
    assert sources["splits"]["verbatim"]["file"] == f"{protocol}: muse"


def test_tofu_tells_a_model_that_knows_from_one_that_does_not(owner: Path) -> None:
    said = expunge(*MODELS, "--benchmark", "tofu-forget01", "--data", tofu(owner / "tofu"))
    assert said.code == 0, said.err
    summary = read_summary(owner / "audit" / "summary.json")

    def value(model: str, name: str) -> float:
        found = summary.cell(model, "full", name).value
        assert found.value is not None, found.reason
        return found.value

    assert value("retrained", "forget_quality") == 1.0
    assert value("target", "forget_quality") < 1.0
    assert value("target", "truth_ratio") < value("retrained", "truth_ratio")
    assert value("target", "probability") > value("retrained", "probability")
    assert value("target", "rouge") == pytest.approx(1.0)
    for model in ("target", "retrained"):
        assert 0.5 < value(model, "model_utility") <= 1.0
    skipped = {each.metric: each.missing for each in summary.skipped}
    assert skipped["privleak"] == ("holdout",)


def test_settings_of_a_metric(owner: Path) -> None:
    said = expunge(
        *(*MODELS, "--benchmark", "tofu-forget01", "--data", tofu(owner / "tofu")),
        *("--metric", "forget_quality:report=log10", "--metric", "truth_ratio:mean=arithmetic"),
    )
    assert said.code == 0, said.err
    summary = read_summary(owner / "audit" / "summary.json")
    found = [summary.cell(model, "full", "forget_quality").value.value for model in ("target", "retrained")]
    assert found[0] is not None
    assert -1 <= found[0] < 0  # three ratios that are all apart have p = 2 / C(6, 3) = 0.1
    assert found[1] == 0.0
    assert {metric.name for metric in summary.metrics} == {"forget_quality", "truth_ratio"}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--benchmark", "tofu-forget1", "--data", "x"), "Did you mean 'tofu-forget10' or 'tofu-forget01'"),
        (("--benchmark", "tofu-forget01", "--data", "absent"), "there is no such folder"),
        (
            ("--benchmark", "muse-news", "--data", "."),
            "takes its forget split from knowmem/forget_qa.jsonl",
        ),
        (("--data", "."), "it is the folder of a benchmark, and none is named"),
        (("--benchmark", "rwku"), "Pass --data FOLDER with forget_level2.jsonl"),
        (("--forget", "forget.jsonl", "--metric", "rouge:kind=rouge3"), "kind"),
    ],
)
def test_refusals(owner: Path, arguments: tuple[str, ...], why: str) -> None:
    said = expunge(*MODELS, *arguments)
    assert said.code != 0
    assert why in said.plain
    assert not (owner / "audit" / "cells").exists()
