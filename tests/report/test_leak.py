"""Leak@k curves by hand, from the probabilities that an audit keeps."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from expunge.audit.run.plan import Role
from expunge.audit.store import write_long
from expunge.errors import DataError
from expunge.report.charts.leak import DRAWS, leak_curves, polylines
from expunge.report.page import render
from expunge.report.run import AuditRun, read_run
from expunge.types import Score
from tests.report.made import LABELS, Made, role_of

P = {"target": 0.5, "retrained": 0.0, "fragile": 0.001, "robust": 1e-12}


def run_with(folder: Path, *, log_p: str | None = None) -> AuditRun:
    """The made audit, whose items also have a probability: of two texts one has none at all."""

    def scores(model: str) -> list[Score]:
        mine = log_p or repr(math.log(P[model]) if P[model] else -math.inf)
        details = [{"log_p": mine, "tokens": "3"}, {"log_p": "-inf", "tokens": "3"}]
        return [Score(item=f"{n}", value=0.0, detail=detail) for n, detail in enumerate(details)]

    made = Made()
    folder.mkdir()
    made.write(folder)
    rows = [
        ((model, role_of(model), label, "knowmem_forget"), {"forget": scores(model)})
        for model in made.knows
        for label in LABELS
    ]
    write_long(folder / "scores.parquet", rows)
    return read_run(folder)


def test_the_curve_of_each_model_under_each_condition(tmp_path: Path) -> None:
    found = dict(leak_curves(run_with(tmp_path / "a")))
    assert list(found) == list(LABELS)
    curves = {curve.model: curve for curve in found["int4"]}
    assert curves["target"].role is Role.TARGET
    assert curves["target"].percents[:2] == pytest.approx((25.0, 37.5))  # half of 0.5, of 0.75
    assert set(curves["retrained"].percents) == {0.0}
    expected = [50 * (1 - 0.999**draws) for draws in DRAWS]
    assert curves["fragile"].percents == pytest.approx(expected)
    assert curves["robust"].percents[-1] == pytest.approx(50 * 1024e-12)


def test_the_page_shows_them_and_says_them_in_words(tmp_path: Path) -> None:
    run = run_with(tmp_path / "a")
    page = render(run, reveal=False)
    assert page.count('class="curve leak target"') == len(LABELS)
    assert "fragile: 0.05 % in one draw, 32.1 % in 1,024" in page
    (_, curves), *_ = leak_curves(run)
    assert "0.00,73.00 " in polylines(curves)  # the target's first point: 25 % of 92 above 96


def test_an_audit_without_them_has_no_such_section(run: AuditRun) -> None:
    assert list(leak_curves(run)) == []
    assert "Asked again and again" not in render(run, reveal=False)


@pytest.mark.parametrize("log_p", ["secret words", "nan"])
def test_what_is_no_number_is_refused(tmp_path: Path, log_p: str) -> None:
    with pytest.raises(DataError, match=r"scores\.parquet"):
        list(leak_curves(run_with(tmp_path / "a", log_p=log_p)))
