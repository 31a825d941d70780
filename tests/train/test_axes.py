"""The axes: every component is listed with its settings, and found by its name."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from expunge.cli.main import app
from expunge.errors import RecipeError
from expunge.train.axes import AXES, Setting, find_members, members


@pytest.mark.parametrize("kind", AXES)
def test_every_member_has_a_summary(kind: str) -> None:
    listed = list(members(kind))
    assert listed
    assert all(member.summary for member in listed)
    assert [member.name for member in listed] == sorted(AXES[kind])


def test_settings_are_those_a_recipe_may_set() -> None:
    (npo,) = find_members("npo")
    assert npo.kind == "forget loss"
    assert npo.settings[0][:3] == Setting("beta", "PositiveFloat", "0.1", "")[:3]


def test_a_name_on_several_axes_is_found_on_each() -> None:
    assert {member.kind for member in find_members("states")} == {"retain loss"}
    assert {member.kind for member in find_members("probe")} == {"scope"}


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="simnpo"):
        find_members("sinmpo")


def test_the_command_lists_and_explains() -> None:
    listed = CliRunner().invoke(app, ["methods", "--axes"]).output
    assert all(kind in listed for kind in AXES)
    assert "steering" in CliRunner().invoke(app, ["methods", "rmu", "--settings"]).output
