"""p-values in view of a whole table, worked by hand: few items, so that every order is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.audit.run.plan import AuditPlan, ModelSource, Role
from expunge.audit.statistics.significance import Conclusion
from tests.audit.fakes import ITEMS, audit, plan_of, probes, source

QUESTIONS = 8


def knowing(name: str, full: int, int4: int, role: Role = Role.UNLEARNED) -> ModelSource:
    """A model that answers so many of the eight questions of each split."""
    return source(name, role, full=(full / ITEMS, 1.0), int4=(int4 / ITEMS, 1.0))


def plan(**settings: object) -> AuditPlan:
    models = (knowing("eight", 0, 8), knowing("six", 0, 6), knowing("none", 4, 4))
    return plan_of(*models, probes=probes(QUESTIONS), **settings)


def test_a_p_value_holds_for_all_rises_of_its_table(tmp_path: Path) -> None:
    summary = audit(plan(), tmp_path).run()
    risen = {
        name: summary.cell(name, "int4", "knowmem_forget").recovery for name in ("eight", "six", "none")
    }
    # Of 2^8 orders of eight equal differences two are as far out; of six and two noughts 2 x 2^2.
    assert {name: each.p for name, each in risen.items()} == {"eight": 2 / 256, "six": 8 / 256, "none": 1.0}
    # Holm: three times the smallest, twice the next, once the largest.
    assert {name: each.p_table for name, each in risen.items()} == {
        "eight": pytest.approx(3 * 2 / 256),
        "six": pytest.approx(2 * 8 / 256),
        "none": 1.0,
    }
    assert risen["eight"].conclusion is Conclusion.DIFFERS
    assert risen["six"].conclusion is Conclusion.CANNOT_TELL  # 0.03 alone, 0.06 in the table


def test_metrics_and_what_is_above_the_control_are_tables_of_their_own(tmp_path: Path) -> None:
    models = (knowing("eight", 0, 8), knowing("six", 0, 6), knowing("control", 0, 0, Role.RETRAINED))
    summary = audit(plan_of(*models, probes=probes(QUESTIONS)), tmp_path).run()
    # Rises of the two models that are judged, without the control's; their excesses under two conditions,
    # two of which are nought.
    assert summary.cell("eight", "int4", "knowmem_forget").recovery.p_table == pytest.approx(2 * 2 / 256)
    assert summary.cell("eight", "int4", "knowmem_forget").excess.p_table == pytest.approx(4 * 2 / 256)
    assert summary.cell("six", "int4", "knowmem_forget").excess.p_table == pytest.approx(3 * 8 / 256)
    assert summary.cell("eight", "int4", "utility").recovery.p_table == 1.0
    assert summary.cell("eight", "full", "knowmem_forget").recovery is None


def test_seeds_of_a_recipe_are_a_table_beside_the_one_that_is_shown(tmp_path: Path) -> None:
    summary = audit(plan(seeds={"recipe": ("eight", "six")}), tmp_path).run()
    own = {name: summary.cell(name, "int4", "knowmem_forget").recovery for name in ("eight", "six")}
    assert {name: each.p_table for name, each in own.items()} == {
        "eight": pytest.approx(2 * 2 / 256),
        "six": pytest.approx(8 / 256),
    }
