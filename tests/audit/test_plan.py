from __future__ import annotations

import pytest

from expunge.audit.plan import FULL, ModelSource, Role
from expunge.errors import RecipeError
from expunge.metrics import metrics
from tests.audit.fakes import Knower, Rounding, plan_of, source

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
