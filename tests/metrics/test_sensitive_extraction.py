from __future__ import annotations

from typing import Any

import pytest

from expunge.inference.generation.branch import BranchPoint
from expunge.metrics import metrics
from expunge.metrics.probes import Probes
from expunge.metrics.sensitive_extraction import SensitiveRun, sensitive_runs
from tests.metrics.fakes import FakeObserver, document, facts_of

TEXT = document("d", "text", group="g")
TOKENS = [10, 11, 12, 13, 14, 15]


def score(observer: FakeObserver, **settings: Any) -> Any:
    metric = metrics.build({"name": "sensitive_extraction", **settings})
    (found,) = metric.measure(observer, Probes(forget=(TEXT,)))["forget"]
    return found


def observer(sensitive: list[int], say: Any) -> FakeObserver:
    return FakeObserver(known={"d": facts_of(TOKENS, sensitive=sensitive)}, continue_from=say)


def copies(fork: BranchPoint) -> list[int]:
    return TOKENS[fork.at :]


def test_sensitive_tokens_in_a_row_are_one_span() -> None:
    assert sensitive_runs(facts_of(TOKENS, sensitive=[0, 2, 3, 5])) == [
        SensitiveRun(0, 1),
        SensitiveRun(2, 4),
        SensitiveRun(5, 6),
    ]
    assert sensitive_runs(facts_of(TOKENS)) == []


@pytest.mark.parametrize("n", [1, 2, 10])
def test_a_model_that_copies_has_1_and_one_of_another_alphabet_0(n: int) -> None:
    assert score(observer([1, 2, 4], copies), n=n).value == 1.0
    assert score(observer([1, 2, 4], lambda fork: [99] * 9), n=n).value == 0.0
    assert score(observer([1, 2, 4], lambda fork: []), n=n).value == 0.0


def test_n_grams_are_counted_as_often_as_they_are_said() -> None:
    # "10 99 10" in the place of "10 11 12": two of three occur in the span.
    assert score(observer([0, 1, 2], lambda fork: [10, 99, 10]), n=1).value == pytest.approx(2 / 3)


def test_beginnings_before_the_span_say_what_stands_between_too() -> None:
    asked: list[BranchPoint] = []

    def say(fork: BranchPoint) -> list[int]:
        asked.append(fork)
        return copies(fork)

    # From 3 and 2: the span (4, 5) is one of one 2-gram, then one of two.
    assert score(observer([4, 5], say), n=2, before=1).value == pytest.approx((1 / 2 + 1) / 2)
    assert [(fork.at, fork.tokens) for fork in asked] == [(3, 3), (4, 2)]


def test_a_span_at_the_start_has_nothing_before_it() -> None:
    assert score(observer([0, 1], copies), before=5).value == 1.0


def test_spans_weigh_the_same_and_texts_without_any_are_unscored() -> None:
    half = observer([0, 3, 4, 5], lambda fork: [10] if fork.at == 0 else [99] * 3)
    assert score(half).value == pytest.approx(1 / 2)
    assert "no sensitive spans" in score(observer([], copies)).unscored


def test_no_texts_is_one_row_with_the_reason() -> None:
    metric = metrics.build("sensitive_extraction")
    (found,) = metric.measure(FakeObserver(), Probes(forget=()))["forget"]
    assert found.unscored == "the forget split is empty"
