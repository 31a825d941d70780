from __future__ import annotations

import pytest

from expunge.audit.run.missing_inputs import (
    ORDER,
    RETRAINED,
    TARGET,
    WANTED,
    SkippedMetric,
    in_order,
    missing_inputs,
    missing_splits,
    select_metrics,
)
from expunge.errors import DataError, RecipeError
from expunge.metrics import metrics
from expunge.metrics.probes import Probes
from tests.metrics.fakes import document, question

FORGET = Probes(forget=(question("q", "who?", "Ada"), document("d", "text")))
EVERYTHING = Probes(
    forget=FORGET.forget,
    retain=FORGET.forget,
    holdout=FORGET.forget,
    neighbours=FORGET.forget,
    paraphrase_questions=FORGET.forget,
)


def names(probes: Probes, *asked: str, has_control: bool = True) -> list[str]:
    return [
        metrics.name_of(each) for each in select_metrics(asked, probes, has_control=has_control).metrics
    ]


def test_the_default_ones_come_in_a_telling_order() -> None:
    chosen = names(EVERYTHING)
    assert chosen[: len(ORDER)] == list(ORDER)
    assert all(metrics[name].default for name in chosen)


def test_all_are_all_that_can_be_measured() -> None:
    every = select_metrics(["all"], EVERYTHING, has_control=True)
    found = [metrics.name_of(each) for each in every.metrics] + [each.metric for each in every.skipped]
    assert sorted(found) == sorted(metrics)
    assert names(EVERYTHING, "utility", "all") == names(EVERYTHING, "all")


def test_named_ones_stay_in_their_order() -> None:
    assert names(EVERYTHING, "utility", "auc") == ["utility", "auc"]


def test_a_forget_set_alone_measures_what_needs_no_more() -> None:
    choice = select_metrics([], FORGET, has_control=False)
    assert all(not missing_splits(each, FORGET, has_control=False) for each in choice.metrics)
    assert {"knowmem_forget", "verbmem"} <= set(names(FORGET, has_control=False))
    assert {each.metric: each.missing for each in choice.skipped}["privleak"] == ("holdout", RETRAINED)


def test_a_mistyped_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'verbmem'"):
        select_metrics(["verbmen"], FORGET, has_control=False)


def test_nothing_left_to_measure_is_refused() -> None:
    with pytest.raises(DataError, match="holdout, retrained") as refusal:
        select_metrics(["privleak"], FORGET, has_control=False)
    assert "--holdout FILE" in refusal.value.fix
    assert "--retrained MODEL" in refusal.value.fix


def test_what_would_add_something() -> None:
    skipped = [SkippedMetric(metric="m", title="M", missing=("holdout", "topics"))]
    found = missing_inputs(skipped, has_target=False, has_control=True)
    assert [want.name for want in found] == [TARGET, "holdout", "topics"]
    assert "topics.jsonl" in found[-1].option
    assert missing_inputs([], has_target=True, has_control=True) == []
    assert missing_inputs([], has_target=True, has_control=False) == [WANTED[RETRAINED]]


def test_in_order() -> None:
    assert in_order(["zeal", "utility", "auc", "able"]) == ["auc", "utility", "able", "zeal"]
