"""The study's arms differ in one ingredient, and its pooled numbers are means over worlds."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import pytest
from benchmarks.durability import page
from benchmarks.durability.arms import METHODS, RETAINING, SEEDS, Arm, arms
from benchmarks.durability.tables import markdown
from benchmarks.pooling import RETRAINED, Pool, World

from expunge.audit.statistics.bootstrap import Bootstrap
from expunge.train.run.recipe import load_recipe
from expunge.types import Score


def test_every_arm_runs_once_and_is_a_valid_recipe() -> None:
    every = arms()
    assert len(set(every)) == len(every)
    assert Counter(arm.seed for arm in every if arm.width == 256) == dict.fromkeys(SEEDS, 33)
    for arm in {replace(arm, seed=0): None for arm in every}:
        stage = load_recipe(arm.method, arm.overrides).stages[0]
        assert stage.learning_rate == arm.rate
        assert stage.precision == ("fp32" if arm.weights == "lora" else arm.weights)
        assert (type(stage.scope).__name__ == "SalientModules") is arm.mask


def test_the_table_of_the_paper_is_there_in_both_precisions() -> None:
    cells = {(arm.method, arm.weights, arm.mask) for arm in arms()}
    for weights in ("bf16", "fp32"):
        assert {(method, weights, False) for method in METHODS} <= cells
        assert {(method, weights, True) for method in RETAINING} <= cells


def test_every_arm_has_a_neighbour_that_differs_in_one_ingredient() -> None:
    every = [arm for arm in arms() if arm.seed == 0]
    ingredients = [each.name for each in fields(Arm)]
    for arm in every:
        apart = [sum(getattr(arm, n) != getattr(other, n) for n in ingredients) for other in every]
        assert 1 in apart, arm.cell


def world(seed: int, own: list[float], control: list[float]) -> World:
    def measured(values: list[float]) -> dict[str, list[Score]]:
        scores = [Score(item=str(i), value=v, group=str(i // 2)) for i, v in enumerate(values)]
        return {"forget": scores}

    scores = {("a", "full", "knowmem_forget"): measured(own)}
    scores |= {("a", "int4", "knowmem_forget"): measured([v + 10 * (seed + 1) for v in own])}
    for transform in ("full", "int4"):
        scores |= {(RETRAINED, transform, "knowmem_forget"): measured(control)}
    return World(scores=scores, summary=None)  # type: ignore[arg-type]


def test_pooled_numbers_are_means_over_worlds() -> None:
    pool = Pool(
        [world(0, [0.0, 20.0, 40.0, 60.0], [10.0] * 4), world(1, [60.0] * 4, [20.0] * 4)],
        Bootstrap(resamples=400),
    )
    value = pool.value("a", "full", "knowmem_forget")
    assert value.value == pytest.approx((30 + 60) / 2)
    assert value.low is not None
    assert value.high is not None
    assert value.low == pytest.approx(35)  # the first world's groups have means 10 and 50, the other's 60
    assert value.high == pytest.approx(55)
    risen = pool.recovery("a", "int4", "knowmem_forget")
    assert (risen.value, risen.low, risen.high) == pytest.approx((15.0, 15.0, 15.0))
    assert pool.excess("a", "full", "knowmem_forget").value == pytest.approx(45 - 15)
    assert pool.by_seed("a", "full", "knowmem_forget") == pytest.approx([30.0, 60.0])
    assert len(pool.holding("b").worlds) == 0


def test_a_table_goes_between_its_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "TABLES", {"one": lambda results: markdown(["a"], [[results["b"]]])})
    path = tmp_path / "page.md"
    path.write_text("before\n<!-- one -->\nold\n<!-- end -->\nafter", encoding="utf-8")
    page.fill(path, {"b": "new"})
    page.fill(path, {"b": "newer"})
    assert path.read_text(encoding="utf-8") == (
        "before\n<!-- one -->\n\n| a |\n| --- |\n| newer |\n\n<!-- end -->\nafter"
    )
    path.write_text("no markers", encoding="utf-8")
    with pytest.raises(ValueError, match="0 places for the table"):
        page.fill(path, {"b": "new"})
