from __future__ import annotations

import pytest

from expunge.audit.advice import RETRAINED, TARGET, WANTED, LeftOut, lacking, wants
from expunge.audit.choice import ORDER, choose, in_order
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
    second_phrasing=FORGET.forget,
)


def names(probes: Probes, *asked: str, has_control: bool = True) -> list[str]:
    return [metrics.name_of(each) for each in choose(asked, probes, has_control=has_control).metrics]


def test_the_default_ones_come_in_a_telling_order() -> None:
    chosen = names(EVERYTHING)
    assert chosen[: len(ORDER)] == list(ORDER)
    assert all(metrics[name].default for name in chosen)


def test_all_are_all_that_can_be_measured() -> None:
    every = choose(["all"], EVERYTHING, has_control=True)
    found = [metrics.name_of(each) for each in every.metrics] + [each.metric for each in every.left_out]
    assert sorted(found) == sorted(metrics)
    assert names(EVERYTHING, "utility", "all") == names(EVERYTHING, "all")


def test_named_ones_stay_in_their_order() -> None:
    assert names(EVERYTHING, "utility", "auc") == ["utility", "auc"]


def test_a_forget_set_alone_measures_what_needs_no_more() -> None:
    choice = choose([], FORGET, has_control=False)
    assert all(not lacking(each, FORGET, has_control=False) for each in choice.metrics)
    assert {"knowmem_forget", "verbmem"} <= set(names(FORGET, has_control=False))
    assert {each.metric: each.lacks for each in choice.left_out}["privleak"] == ("holdout", RETRAINED)


def test_a_mistyped_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'verbmem'"):
        choose(["verbmen"], FORGET, has_control=False)


def test_nothing_left_to_measure_is_refused() -> None:
    with pytest.raises(DataError, match="holdout, retrained") as refusal:
        choose(["privleak"], FORGET, has_control=False)
    assert "--holdout FILE" in refusal.value.fix
    assert "--retrained MODEL" in refusal.value.fix


def test_what_would_add_something() -> None:
    left_out = [LeftOut(metric="m", title="M", lacks=("holdout", "topics"))]
    found = wants(left_out, has_target=False, has_control=True)
    assert [want.name for want in found] == [TARGET, "holdout", "topics"]
    assert "topics.jsonl" in found[-1].option
    assert wants([], has_target=True, has_control=True) == []
    assert wants([], has_target=True, has_control=False) == [WANTED[RETRAINED]]


def test_in_order() -> None:
    assert in_order(["zeal", "utility", "auc", "able"]) == ["auc", "utility", "able", "zeal"]
