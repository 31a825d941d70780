from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from expunge.audit.plan import FULL, Kind, ModelSource, Role, family_of, kind_of
from expunge.errors import RecipeError
from expunge.metrics import metrics
from expunge.quant import quantizers
from expunge.quant.base import Quantized, Quantizer
from expunge.quant.parse import parse_quantizer
from tests.audit.fakes import Knower, Rounding, audit, plan_of, source

ONE = source("one", full=(0.0, 1.0))


def test_full_precision_is_always_the_first_column() -> None:
    assert [each.label for each in plan_of(ONE).columns] == ["full", "int4"]
    assert [each.label for each in plan_of(ONE, transforms=(Rounding(name="int4"), FULL)).columns] == [
        "full",
        "int4",
    ]


def test_full_precision_leaves_the_model_alone() -> None:
    model = Knower({})
    with FULL.applied(model) as applied:
        assert applied.model is model
        assert applied.coverage == ()


@pytest.mark.parametrize("role", [Role.TARGET, Role.RETRAINED])
def test_there_is_one_target_and_one_retrained_model(role: Role) -> None:
    with pytest.raises(RecipeError, match=f"two {role} models"):
        plan_of(source("a", role, full=(1.0, 1.0)), source("b", role, full=(1.0, 1.0)))


def test_names_are_unique() -> None:
    with pytest.raises(RecipeError, match="model 'one'"):
        plan_of(ONE, ONE)
    with pytest.raises(RecipeError, match="transform 'int4'"):
        plan_of(ONE, transforms=(Rounding(name="int4"), Rounding(name="int4", strength=2)))
    with pytest.raises(RecipeError, match="metric 'utility'"):
        plan_of(
            ONE,
            metrics=(metrics.build({"name": "utility"}), metrics.build({"name": "utility", "shots": 2})),
        )


def test_holder() -> None:
    target: ModelSource = source("t", Role.TARGET, full=(1.0, 1.0))
    assert plan_of(ONE, target).holder(Role.TARGET) is target
    assert plan_of(ONE).holder(Role.RETRAINED) is None


def test_seeds_are_several_unlearned_models_of_their_own() -> None:
    two, target = source("two", full=(0.0, 1.0)), source("t", Role.TARGET, full=(1.0, 1.0))
    assert plan_of(ONE, two, seeds={"npo": ("one", "two")}).seeds == {"npo": ("one", "two")}
    for seeds, why in (
        ({"npo": ("one",)}, "one seed has no spread"),
        ({"npo": ("one", "t")}, "'t' is not one of the unlearned models"),
        ({"npo": ("one", "three")}, "'three' is not one"),
        ({"npo": ("one", "two"), "ga": ("one", "two")}, "names it more than once"),
        ({"two": ("one", "two")}, "names it more than once"),
    ):
        with pytest.raises(RecipeError, match=why):
            plan_of(ONE, two, target, seeds=seeds)


class Squared(Quantizer):
    """A quantizer of somebody else's, with a name of theirs."""

    @property
    def label(self) -> str:
        return "squared"

    @property
    def how(self) -> str:
        return "squared"

    def quantize(self, weight_OI: Tensor) -> Quantized:
        return Quantized(weight_OI, weight_OI)


def test_the_kind_of_a_transform_is_a_fact_of_its_class() -> None:
    assert (kind_of(FULL), family_of(FULL)) == (Kind.FULL_PRECISION, "")
    assert (kind_of(Squared()), family_of(Squared())) == (Kind.QUANTIZER, "other")
    assert (kind_of(Rounding(name="int4")), family_of(Rounding(name="int4"))) == (Kind.ATTACK, "")


@pytest.mark.parametrize(
    ("label", "family"),
    [
        ("int4-g64", "round to nearest"),
        ("nf4", "bitsandbytes"),
        ("fp4", "bitsandbytes"),
        ("bnb-int8", "bitsandbytes"),
        ("ao-int8", "torchao"),
        ("ao-int4-g128", "torchao"),
        ("gptq4-g128", "gptq"),
        ("awq4", "awq"),
        ("llmc-gptq4-g128", "gptq"),
        ("llmc-rtn4", "round to nearest"),
        ("llmc-awq4", "awq"),
        ("gguf-q4_k", "gguf"),
    ],
)
def test_every_quantizer_says_its_family(label: str, family: str) -> None:
    assert family_of(parse_quantizer(label)) == family


def test_no_quantizer_is_without_a_family() -> None:
    assert [name for name in quantizers if quantizers[name].family == "other"] == []


def test_the_kind_stands_in_the_summary(tmp_path: Path) -> None:
    transforms = (Rounding(name="int4"),)
    summary = audit(plan_of(ONE, transforms=transforms), tmp_path).run()
    assert [(each.label, each.kind) for each in summary.transforms] == [
        ("full", Kind.FULL_PRECISION),
        ("int4", Kind.ATTACK),
    ]
