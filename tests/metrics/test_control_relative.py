"""LPD, PDLP and retention, worked by hand."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest

from expunge.inference.observer import Observer
from expunge.metrics.control_relative import PDLP, PerplexityDistance
from expunge.metrics.knowmem import NeighbourRetention, ParaphraseRetention
from expunge.metrics.probes import Probes
from tests.metrics.fakes import FakeObserver, document, question
from tests.tiny import tiny, tiny_tokenizer


def told(metric: Any, own: list[float], control: list[float], split: str = "forget") -> float:
    weights = {split: np.ones((1, len(own)))}
    found = metric.statistic({split: np.array(own)}, weights, {split: np.array(control)})
    return float(found[0])


def test_perplexity_is_the_exponential_of_the_mean_loss() -> None:
    seer = cast("Observer", FakeObserver(logps={"d": [math.log(0.5), math.log(0.125)]}))
    (score,) = PerplexityDistance().measure(seer, Probes(forget=(document("d", "a b"),)))["forget"]
    assert score.value == pytest.approx(4.0)


def test_distances_are_relative_to_the_retrained_model() -> None:
    assert told(PerplexityDistance(), [10, 30], [20, 20]) == pytest.approx(0.5)
    assert told(PerplexityDistance(), [10, 30], [10, 20]) == pytest.approx(0.25)
    assert told(PerplexityDistance(), [3, 4], [3, 4]) == 0.0


def test_the_share_of_texts_that_grew_unlikely() -> None:
    assert told(PDLP(), [3, 4, 5, 6], [2, 2, 9, 9]) == 0.5
    assert told(PDLP(), [3, 4], [2, 2]) == 1.0
    assert told(PDLP(), [1, 1], [2, 2]) == 0.0


def test_against_itself_it_is_in_the_middle() -> None:
    assert told(PDLP(), [3, 4, 5], [3, 4, 5]) == 0.5


def test_what_is_left_of_the_neighbours() -> None:
    assert told(NeighbourRetention(), [30, 60], [60, 60], "neighbours") == pytest.approx(75)
    assert math.isnan(told(NeighbourRetention(), [0, 0], [0, 0], "neighbours"))


def test_what_is_known_in_other_words() -> None:
    answers = {"Question: who?\nAnswer: ": "Ada", "Question: which one?\nAnswer: ": "Ada Bo"}
    seer = FakeObserver(
        say=lambda prompt: answers[str(prompt)], model=tiny("llama"), tokenizer=tiny_tokenizer()
    )
    probes = Probes(
        forget=(question("q", "who?", "Ada"),), paraphrase_questions=(question("q", "which one?", "Ada"),)
    )
    found = ParaphraseRetention().measure(cast("Observer", seer), probes)
    # F1 1 in the known words, 2 * 1 * .5 / 1.5 in others.
    assert ParaphraseRetention().point_estimate(found) == pytest.approx(100 * 2 / 3)


@pytest.mark.parametrize("metric", [PerplexityDistance(), PDLP(), NeighbourRetention()])
def test_a_missing_control_is_an_error(metric: Any) -> None:
    split = "neighbours" if isinstance(metric, NeighbourRetention) else "forget"
    with pytest.raises(LookupError, match="retrained"):
        metric.statistic({split: np.ones(2)}, {split: np.ones((1, 2))})
