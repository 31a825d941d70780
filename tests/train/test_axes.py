"""The axes: every component is listed with its settings, and found by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from expunge.cli.main import app
from expunge.component import Component
from expunge.corpus.annotate import Annotator
from expunge.corpus.synthetic import WorldSize
from expunge.errors import RecipeError
from expunge.metrics import metrics
from expunge.model.create import ScratchModel
from expunge.quant import parse_quantizer, quantizers
from expunge.shards.folder import Training
from expunge.shards.plan import SplitSettings
from expunge.train.alternate_answers import alternates
from expunge.train.axes import AXES, Setting, find_members, members, quantizer_members
from expunge.train.loop.adapter_training import AdapterTraining
from expunge.train.loop.evaluator import MemorizationEvaluator
from expunge.train.loop.stop import StopRule
from expunge.train.methods.loo import Teachers
from expunge.train.methods.unlearn_spans import Selector
from expunge.train.objective.pair import Bound
from expunge.train.rewards import rewards

if TYPE_CHECKING:
    from collections.abc import Iterable

    from expunge.registry import Registry


@pytest.mark.parametrize("kind", AXES)
def test_every_member_has_a_summary(kind: str) -> None:
    listed = list(members(kind))
    assert listed
    assert all(member.summary for member in listed)
    assert [member.name for member in listed] == sorted(AXES[kind])


def test_settings_are_those_a_recipe_may_set() -> None:
    (npo,) = find_members("npo")
    assert npo.kind == "forget loss"
    assert npo.settings[0] == Setting("beta", "PositiveFloat", "0.1", npo.settings[0].description)
    assert npo.settings[0].description.startswith("β: ")


def test_a_setting_that_is_a_component_shows_its_kind_and_name() -> None:
    (unlearn,) = find_members("unlearn")
    shown = {setting.name: setting[1:3] for setting in unlearn.settings}
    assert shown["forget"] == ("ForgetLoss", "")
    assert shown["retain"] == ("RetainLoss | None", "null")
    assert shown["scope"] == ("Scope", "all")


@pytest.mark.parametrize("kind", AXES)
def test_every_setting_is_described(kind: str) -> None:
    bare = [
        f"{member.name}.{setting.name}"
        for member in members(kind)
        for setting in member.settings
        if not setting.description.endswith(".")
    ]
    assert bare == []


OTHERS = (
    *(Bound, StopRule, MemorizationEvaluator, AdapterTraining, Selector, Teachers, Training),
    *(Annotator, ScratchModel, SplitSettings, WorldSize),
)


@pytest.mark.parametrize("registry", [alternates, rewards, metrics], ids=lambda registry: registry.kind)
def test_every_setting_outside_the_axes_is_described(registry: Registry[Any]) -> None:
    assert bare_fields(registry[name] for name in registry) == []


def test_every_other_setting_is_described() -> None:
    assert bare_fields(OTHERS) == []


def test_a_setting_without_a_description_would_be_found() -> None:
    class Bare(Component):
        count: int = 1

    assert bare_fields([Bare]) == ["Bare.count"]


def bare_fields(components: Iterable[type[Component]]) -> list[str]:
    return [
        f"{component.__name__}.{name}"
        for component in components
        for name, field in component.model_fields.items()
        if not (field.description or "").endswith(".")
    ]


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
