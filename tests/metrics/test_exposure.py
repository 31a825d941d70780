from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.inference.texts import TokenStats
from expunge.metrics import metrics
from expunge.metrics.exposure import choices, exposure
from expunge.metrics.probes import Probes
from expunge.types import Example, Span
from tests.metrics.fakes import document, facts_of

SECRET = replace(document("d", "the code is 42-b!", group="g"), spans=(Span(12, 16),))


class Ranker:
    """Finds a text the likelier the smaller ``rank`` of it is; keeps what it read."""

    def __init__(self, rank: Any) -> None:
        self.rank = rank
        self.texts: list[str] = []

    def read(self, examples: list[Example]) -> list[TokenStats]:
        self.texts += [example.completion for example in examples]
        return [facts_of(logps=[-1.0, -float(self.rank(example.completion))]) for example in examples]


def score(rank: Any, of: Example = SECRET, **settings: Any) -> tuple[Any, Ranker]:
    observer, metric = Ranker(rank), metrics.build({"name": "exposure", **settings})
    (found,) = metric.measure(observer, Probes(forget=(of,)))["forget"]
    return found, observer


def test_exposure_by_hand() -> None:
    assert exposure(-1.0, [-2.0] * 9_999) == pytest.approx(13.287712)  # first of 10,000
    assert exposure(-3.0, [-2.0] * 9_999) == pytest.approx(0.0)  # last
    assert exposure(-2.0, [-1.0, -3.0, -3.0]) == pytest.approx(1.0)  # second of four
    assert exposure(-2.0, [-2.0, -2.0]) == pytest.approx(math.log2(3) - 1)  # no better than the rest


@given(st.lists(st.integers(0, 5).map(float), min_size=1, max_size=9), st.integers(0, 5).map(float))
def test_only_the_order_matters(others: list[float], secret: float) -> None:
    bent = exposure(math.exp(secret), [math.exp(other) for other in others])
    assert exposure(secret, others) == pytest.approx(bent)


def test_characters_change_within_their_kind_and_inside_spans_only() -> None:
    kinds = choices(SECRET)
    assert kinds[:12] == list("the code is ")
    assert [len(each) for each in kinds[12:]] == [10, 10, 1, 26, 1]


def test_all_variants_are_read_where_they_are_few() -> None:
    two = replace(SECRET, spans=(Span(12, 14),))
    found, observer = score(lambda text: text != two.completion, two)
    assert (found.value, found.group) == (pytest.approx(math.log2(100)), "g")
    assert len(set(observer.texts)) == len(observer.texts) == 100
    found, _ = score(lambda text: int(text[12:14]), two)  # 42 stand before 42
    assert found.value == pytest.approx(math.log2(100) - math.log2(43))


def test_otherwise_so_many_are_drawn_and_the_draw_is_kept() -> None:
    found, observer = score(lambda text: text != SECRET.completion, candidates=63)
    assert found.value == pytest.approx(6.0)
    assert len(set(observer.texts)) == 64
    assert all(text.startswith("the code is ") and text.endswith("!") for text in observer.texts)
    assert score(len, candidates=63)[1].texts == observer.texts
    assert score(len, candidates=63, seed=1)[1].texts != observer.texts


def test_without_spans_or_room_for_others_it_is_unscored() -> None:
    assert "no sensitive spans" in score(len, document("d", "42"))[0].unscored
    assert (
        "another of its kind" in score(len, replace(document("d", "東京"), spans=(Span(0, 2),)))[0].unscored
    )


def test_a_broken_model_is_unscored() -> None:
    assert "finite" in score(lambda text: float("nan"))[0].unscored


def test_no_texts_is_one_row_with_the_reason() -> None:
    (found,) = metrics.build("exposure").measure(Ranker(len), Probes(forget=()))["forget"]
    assert found.unscored == "the forget split is empty"
