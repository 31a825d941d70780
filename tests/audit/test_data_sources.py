"""What an audit asks about: files, a folder, a benchmark, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.audit.run.job import DataSources
from expunge.audit.run.missing_inputs import parsed, select_metrics
from expunge.errors import DataError, RecipeError
from expunge.metrics.probes import Probes
from expunge.metrics.truth_ratio import TruthRatio
from expunge.types import Example
from tests.corpus.test_benchmarks import QA, tofu, write

FORGET = (Example(id="q", prompt="?", completion="a", wrong=("b",)),)


def test_a_benchmark_brings_its_splits_and_its_metrics(tmp_path: Path) -> None:
    asked = DataSources(benchmark="tofu-forget01", data=tofu(tmp_path))
    probes = asked.probes()
    assert probes.forget[0].wrong == ("Bo", "Cy")
    assert probes.world_facts
    assert "forget_quality" in asked.metrics
    assert asked.named() == {}
    assert asked.sources()["forget"] == f"tofu-forget01: {tmp_path}"


def test_all_of_a_benchmark_is_asked_and_a_hundred_else(tmp_path: Path) -> None:
    write(tofu(tmp_path) / "forget01_perturbed.jsonl", *([QA] * 120))
    assert len(DataSources(benchmark="tofu-forget01", data=tmp_path).probes().forget) == 120
    few = DataSources(benchmark="tofu-forget01", data=tmp_path, max_items=7).probes()
    assert len(few.forget) == 7
    own = DataSources(files={"forget": str(tmp_path / "forget01_perturbed.jsonl")})
    assert len(own.probes().forget) == 100


def test_a_file_of_ones_own_goes_first(tmp_path: Path) -> None:
    write(tmp_path / "mine.jsonl", {"question": "Mine?", "answer": "yes"})
    asked = DataSources(
        benchmark="tofu-forget01",
        data=tofu(tmp_path / "tofu"),
        files={"retain": str(tmp_path / "mine.jsonl")},
    )
    assert [each.completion for each in asked.probes().retain] == ["yes"]
    assert asked.sources()["retain"].endswith("mine.jsonl")


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="none is named"):
        DataSources(data=tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        DataSources(folder=tmp_path / "absent")
    with pytest.raises(DataError, match="without a forget set"):
        DataSources(folder=tmp_path).probes()


def test_settings_after_a_colon() -> None:
    probes = Probes(forget=FORGET)
    (metric,) = select_metrics(["truth_ratio:mean=arithmetic,floor=0"], probes, has_control=False).metrics
    assert metric == TruthRatio(mean="arithmetic", floor=0.0)
    assert parsed("truth_ratio") == "truth_ratio"
    for wrong in ("truth_ratio:mean", "truth_ratio:", "truth_ratio:=x"):
        with pytest.raises(RecipeError, match="not a list of settings"):
            parsed(wrong)
    with pytest.raises(RecipeError, match="mean"):
        select_metrics(["truth_ratio:mean=median"], probes, has_control=False)


def test_a_benchmarks_metrics_keep_their_settings() -> None:
    wanted = [{"name": "verbmem", "protocol": "open_unlearning"}, "probability"]
    first, second = select_metrics(wanted, Probes(forget=FORGET), has_control=False).metrics
    assert first.model_dump()["protocol"] == "open_unlearning"
    assert second.title == "Probability of the forget set"


def test_fewer_items_leave_the_solved_questions_as_they_are(tmp_path: Path) -> None:
    names = ("forget", "forget_icl", "retain_icl")
    for name in names:
        rows = [{"question": f"{name} {row}?", "answer": f"a{row}"} for row in range(12)]
        write(tmp_path / f"{name}.jsonl", *rows)
    probes = DataSources(folder=tmp_path, max_items=3).probes()
    assert [len(probes.split(name)) for name in names] == [3, 12, 12]
