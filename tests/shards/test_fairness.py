from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expunge.errors import DataError, OutputError, RecipeError
from expunge.shards.fairness import FairJob, decide


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Three members; the first is good, the others see group b badly."""
    draw = np.random.default_rng(seed)
    made = []
    for place in range(count):
        group, label = "ab"[draw.integers(2)], int(draw.integers(2))
        right = (0.95, 0.85, 0.85) if group == "a" else (0.9, 0.55, 0.55)
        votes = [label if draw.random() < each else 1 - label for each in right]
        made.append({"id": f"{seed}/{place}", "group": group, "label": label, "votes": votes})
    return made


def write(path: Path, made: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


@pytest.fixture
def job(tmp_path: Path) -> FairJob:
    return FairJob(
        calibration=write(tmp_path / "fit.jsonl", rows(2000, 0)),
        heldout=write(tmp_path / "held.jsonl", rows(2000, 1)),
        data=write(tmp_path / "new.jsonl", rows(2000, 2)),
        output=tmp_path / "decided.jsonl",
    )


def test_gaps_are_closed_where_it_was_fitted_and_nearly_so_elsewhere(job: FairJob) -> None:
    done = job.run()
    report = done["report"]
    fit, held = report["calibration"], report["held out"]
    assert fit["plain"].gap > 0.15 < held["plain"].gap
    assert fit["in"].gap < 1e-7 > fit["post"].gap
    assert fit["in"].error < fit["post"].error
    assert held["in"].error < held["post"].error
    assert held["in"].gap < 0.06 < held["plain"].gap / 2
    assert "held out" in done["table"]


def test_decisions_need_no_coin_and_have_the_rates_that_were_promised(job: FairJob) -> None:
    job.run()
    assert job.output is not None
    first = job.output.read_text()
    with pytest.raises(OutputError, match=r"already exists.*move it away"):
        job.run()
    assert job.output.read_text() == first
    job.output.unlink()
    job.run()
    assert job.output.read_text() == first
    decided = [json.loads(line) for line in first.splitlines()]
    chances = np.array([row["chance"] for row in decided])
    assert np.mean([row["decision"] for row in decided]) == pytest.approx(chances.mean(), abs=0.03)
    assert {row["decision"] for row in decided if row["chance"] == 0} <= {0}
    assert {row["decision"] for row in decided if row["chance"] == 1} <= {1}


def test_a_hash_stands_for_the_coin() -> None:
    assert np.mean([decide(f"item {i}", 0.3) for i in range(4000)]) == pytest.approx(0.3, abs=0.03)
    assert [decide("x", p) for p in (0.0, 1.0)] == [0, 1]
    # Whoever is decided 1 at one chance is so at every higher one.
    for name in map(str, range(50)):
        decisions = [decide(name, p) for p in np.linspace(0, 1, 21)]
        assert decisions == sorted(decisions)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"votes": None}, "has no 'votes'"),
        ({"group": None}, "has no 'group'"),
        ({"votes": [0, 1]}, "as many votes as in the first row"),
        ({"votes": 1}, "'votes' are not a list"),
        ({"votes": []}, "'votes' are not a list"),
        ({"label": 2}, "votes and labels are 0 or 1"),
    ],
)
def test_rows_that_say_too_little_are_named(job: FairJob, change: dict[str, Any], complaint: str) -> None:
    made = rows(10, 0)
    made[3] |= change
    write(job.calibration, made)
    with pytest.raises(DataError, match=f"fit.jsonl, row 4: .*{complaint}"):
        job.run()


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (
            [{**row, "label": 0} for row in rows(20, 0)],
            "fit.jsonl: every row has label 0, so true and false",
        ),
        (
            [{**row, "label": 1} if row["group"] == "b" else row for row in rows(200, 0)],
            "fit.jsonl: every row of group 'b' has label 1",
        ),
        ([], "fit.jsonl: it holds no rows"),
    ],
)
def test_a_file_of_one_label_is_refused(job: FairJob, made: list[dict[str, Any]], complaint: str) -> None:
    write(job.calibration, made)
    with pytest.raises(DataError, match=complaint):
        job.run()


def test_a_row_that_is_no_object_is_named(job: FairJob) -> None:
    job.calibration.write_text('{"votes": [0]}\n7\n')
    with pytest.raises(DataError, match=r"fit.jsonl, line 2: the row is a number"):
        job.run()


def test_a_row_without_a_group_is_named(job: FairJob) -> None:
    made = rows(10, 0)
    del made[3]["group"]
    write(job.calibration, made)
    with pytest.raises(DataError, match=r"fit.jsonl, row 4: it has no 'group'"):
        job.run()


def test_data_to_decide_needs_no_label(job: FairJob) -> None:
    assert job.data is not None
    write(job.data, [{**row, "label": None} for row in rows(5, 0)])
    assert job.run()["decided"] == 5


def test_what_cannot_be_meant_is_refused(job: FairJob, tmp_path: Path) -> None:
    settings = {"calibration": job.calibration}
    with pytest.raises(RecipeError, match="Pass both"):
        FairJob(**settings, output=tmp_path / "x").run()
    with pytest.raises(RecipeError, match=r"--method inn.*Did you mean 'in'"):
        FairJob(**settings, method="inn").run()
    with pytest.raises(DataError, match="cannot be read as a file of rows"):
        FairJob(calibration=tmp_path / "none.jsonl").run()
    strange = write(tmp_path / "strange.jsonl", [{**rows(1, 0)[0], "group": "c"}])
    with pytest.raises(DataError, match="knows no group 'c'"):
        FairJob(**settings, heldout=strange).run()
