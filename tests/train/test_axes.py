"""The axes: every component is listed with its settings, and found by its name."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from expunge.cli.main import app
from expunge.errors import RecipeError
from expunge.quant import quantizers
from expunge.quant.parse import parse_quantizer
from expunge.train.axes import AXES, Setting, find_members, members, quantizer_members


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


def test_quantizers_are_listed_with_what_they_need_and_can_be_written_as() -> None:
    listed = {member.labels[0]: member for member in quantizer_members()}
    assert len(listed) == len(list(quantizers))
    assert all(parse_quantizer(label).label == label for one in listed.values() for label in one.labels)
    assert (listed["int4"].needs, listed["int4"].formats) == ((), ("compressed-tensors", "values"))
    assert listed["nf4"][1:] == ("bitsandbytes", ("extra bnb",), ("bitsandbytes", "values"))
    assert listed["gptq4"].needs == ("calibration text",)
    assert listed["gguf-q4_k"].formats == ("values", ".gguf")
    assert listed["ao-int4-g128"][2:] == (("extra torchao",), ("values",))
    awq = listed["llmc-awq4"]  # its codes cannot be exported
    assert awq[2:] == (("calibration text", "extra compress", "an accelerator"), ("values",))


def test_the_command_lists_quantizers_without_a_model() -> None:
    listed = CliRunner().invoke(app, ["quantize", "--list"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in ("awq4-g128", "calibration text", ".gguf", "extra bnb"))
