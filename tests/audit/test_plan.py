from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from expunge.attacks import parse_attack
from expunge.audit.run.plan import ModelSource, Role, every_condition
from expunge.condition import FULL, ConditionContext, Kind
from expunge.errors import RecipeError
from expunge.metrics import metrics
from expunge.quant import parse_quantizer, quantizers
from expunge.quant.base import Quantized, Quantizer
from tests.audit.fakes import Knower, Rounding, audit, plan_of, source

ONE = source("one", full=(0.0, 1.0))


def test_full_precision_is_always_the_first_column() -> None:
    assert [each.label for each in plan_of(ONE).columns] == ["full", "int4"]
    assert [each.label for each in plan_of(ONE, conditions=(Rounding(name="int4"), FULL)).columns] == [
        "full",
        "int4",
    ]


def test_full_precision_leaves_the_model_alone() -> None:
    model = Knower({})
    with FULL.under(model, ConditionContext(tokenizer=None, workdir=Path())) as applied:
        assert applied.model is model
        assert applied.coverage == ()


@pytest.mark.parametrize("role", [Role.TARGET, Role.RETRAINED])
def test_there_is_one_target_and_one_retrained_model(role: Role) -> None:
    with pytest.raises(RecipeError, match=f"two {role} models"):
        plan_of(source("a", role, full=(1.0, 1.0)), source("b", role, full=(1.0, 1.0)))


def test_names_are_unique() -> None:
    with pytest.raises(RecipeError, match="model 'one'"):
        plan_of(ONE, ONE)
    with pytest.raises(RecipeError, match="condition 'int4'"):
        plan_of(ONE, conditions=(Rounding(name="int4"), Rounding(name="int4", strength=2)))
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
        ({"npo": ("one",)}, "one seed gives no spread"),
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


def test_the_kind_of_a_condition_is_a_fact_of_its_class() -> None:
    relearn = parse_attack("relearn")
    assert (FULL.kind, FULL.family) == (Kind.FULL_PRECISION, "")
    assert (Squared().kind, Squared().family) == (Kind.QUANTIZER, "other")
    assert (relearn.kind, relearn.family) == (Kind.ATTACK, "")


def test_every_attack_is_also_made_on_every_quantized_model() -> None:
    quantizers = [parse_quantizer("int4"), parse_quantizer("nf4")]
    conditions = every_condition(quantizers, [parse_attack("relearn:steps=3")])
    assert [(each.label, each.kind, each.family) for each in conditions] == [
        ("int4", Kind.QUANTIZER, "round to nearest"),
        ("nf4", Kind.QUANTIZER, "bitsandbytes"),
        ("relearn:steps=3", Kind.ATTACK, ""),
        ("int4+relearn:steps=3", Kind.ATTACK, "round to nearest"),
        ("nf4+relearn:steps=3", Kind.ATTACK, "bitsandbytes"),
    ]


def test_the_label_of_an_attack_names_what_is_not_the_default() -> None:
    for text in ("relearn", "relearn:on=benign,steps=5,learning_rate=0.001", "gcg:steps=50"):
        attack = parse_attack(text)
        assert attack.label == text
        assert parse_attack(attack.label) == attack


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
    assert parse_quantizer(label).family == family


def test_no_quantizer_is_without_a_family() -> None:
    assert [name for name in quantizers if quantizers[name].family == "other"] == []


def test_the_kind_stands_in_the_summary(tmp_path: Path) -> None:
    conditions = (Rounding(name="int4"),)
    summary = audit(plan_of(ONE, conditions=conditions), tmp_path).run()
    assert [(each.label, each.kind) for each in summary.conditions] == [
        ("full", Kind.FULL_PRECISION),
        ("int4", Kind.QUANTIZER),
    ]
