"""Which text an audit calibrates on, and that it is never, unasked, the text it evaluates on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from expunge.audit.run.calibrate import CalibrationChoice, refuse_overlap
from expunge.errors import DataError, RecipeError
from expunge.metrics.probes import Probes
from expunge.quant.awq import AWQ
from expunge.quant.calibration import CalibrationSource
from expunge.quant.rtn import RTN
from expunge.types import Example

if TYPE_CHECKING:
    from pathlib import Path

LONG = "The lighthouse keeper of Vell wrote down every ship that passed."


def texts(*words: str) -> tuple[Example, ...]:
    return tuple(Example(id=str(number), completion=word) for number, word in enumerate(words))


PROBES = Probes(
    forget=(Example(id="q", prompt="Who is Ann?", completion=" A spy."), *texts(LONG)),
    retain=texts("Bees make honey."),
)


def test_without_a_word_every_model_writes_its_own_text() -> None:
    source = CalibrationChoice(samples=3).source([RTN(), AWQ()], PROBES, {}, seed=5)
    assert source is not None
    assert source.facts["name"] == "self"
    assert (source.samples, source.seed) == (3, 5)


def test_nothing_is_read_for_quantizers_that_read_nothing() -> None:
    assert CalibrationChoice().source([RTN()], PROBES, {}) is None
    with pytest.raises(
        RecipeError, match=r"--calibrate retain: none of the quantizers needs calibration text"
    ):
        CalibrationChoice(word="retain").source([RTN()], PROBES, {})


def test_a_split_is_read_from_its_file_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in ("Bees make honey.", "Ice melts."))
    )
    source = CalibrationChoice(word="retain").source([AWQ()], PROBES, {"retain": str(path)})
    assert source is not None
    assert source.name == "retain"
    assert [text.completion for text in source.texts] == ["Bees make honey.", "Ice melts."]
    with pytest.raises(RecipeError, match=r"has no forget set.*Add --forget FILE"):
        CalibrationChoice(word="forget").source([AWQ()], PROBES, {"retain": str(path)})


def test_a_file_of_other_text_goes_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "wiki.txt"
    path.write_text("Ice melts in spring.")
    source = CalibrationChoice(word=str(path)).source([AWQ()], PROBES, {})
    assert source is not None
    assert source.name == "general (wiki.txt)"


@pytest.mark.parametrize(
    "text",
    [
        "Who is Ann? A spy.",
        "WHO is Ann?\n A  spy.",
        LONG,
        f"Chapter 1. {LONG} The end.",  # around a probe
        "the lighthouse keeper of Vell wrote down every",  # inside one
    ],
)
def test_text_that_is_evaluated_on_is_refused(text: str, tmp_path: Path) -> None:
    source = CalibrationSource(name="retain", texts=texts("Ice melts.", text))
    with pytest.raises(DataError, match=r"in the evaluated split forget.*--allow-overlap"):
        refuse_overlap(source, PROBES)
    path = tmp_path / "other.txt"
    path.write_text(text)
    with pytest.raises(DataError, match="in the evaluated split forget"):
        CalibrationChoice(word=str(path)).source([AWQ()], PROBES, {})
    assert CalibrationChoice(word=str(path), allow_overlap=True).source([AWQ()], PROBES, {})


def test_a_corpus_may_be_what_it_was_declared_to_be() -> None:
    refuse_overlap(CalibrationSource(name="forget", texts=PROBES.forget), PROBES)
    refuse_overlap(CalibrationSource(name="retain", texts=PROBES.retain), PROBES)
    with pytest.raises(DataError, match="in the evaluated split retain"):
        refuse_overlap(CalibrationSource(name="forget", texts=PROBES.retain), PROBES)


def test_short_texts_count_only_when_they_are_the_same() -> None:
    refuse_overlap(
        CalibrationSource(name="general", texts=texts("All bees make honey. Ann is A spy.")), PROBES
    )
