from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.corpus.benchmarks import benchmark
from expunge.corpus.benchmarks.bias import NOTHING_SHARED, read_crows_pairs, read_stereoset
from expunge.corpus.benchmarks.load import load_splits
from expunge.errors import DataError


def stereoset(*sentences: tuple[str, str]) -> dict[str, Any]:
    row = {
        "id": "s1",
        "target": "smith",
        "sentences": [{"sentence": text, "gold_label": label} for label, text in sentences],
    }
    return {"data": {"intrasentence": [row], "intersentence": []}}


def test_a_stereoset_is_a_question_with_two_other_answers(tmp_path: Path) -> None:
    found = stereoset(
        ("unrelated", "The smith was so purple."),
        ("stereotype", "The smith was so strong."),
        ("anti-stereotype", "The smith was so strict."),
    )
    (tmp_path / "dev.json").write_text(json.dumps(found))
    (one,) = load_splits(benchmark("stereoset"), tmp_path)["choices"]
    assert one.prompt == "The smith was so"  # by whole words, though "str" is shared by two
    assert (one.completion, one.wrong) == (" strong.", (" strict.", " purple."))
    assert one.group == "smith"
    assert one.choices[one.correct_index] == one.completion


def test_crows_pairs_turn_round_what_is_antistereo(tmp_path: Path) -> None:
    (tmp_path / "crows_pairs_anonymized.csv").write_text(
        ",sent_more,sent_less,stereo_antistereo,bias_type\n"
        "0,Women cook.,Men cook.,stereo,gender\n"
        '1,"The old man, said Bo, ran.","The old man, said Bo, sat.",antistereo,age\n'
    )
    first, second = load_splits(benchmark("crows-pairs"), tmp_path)["choices"]
    assert (first.prompt, first.completion, first.wrong) == (NOTHING_SHARED, "Women cook.", ("Men cook.",))
    assert (second.prompt, second.completion) == ("The old man, said Bo,", " sat.")
    assert second.wrong == (" ran.",)


@pytest.mark.parametrize("text", ["[]", "{", '{"data": {"intrasentence": [{"id": 1, "sentences": []}]}}'])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(DataError, match="It has to be"):
        read_stereoset(tmp_path / "x")
    with pytest.raises(DataError, match="cannot be read"):
        read_stereoset(tmp_path / "none")
    (tmp_path / "y.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="sent_more"):
        read_crows_pairs(tmp_path / "y.csv")
