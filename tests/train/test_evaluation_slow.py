"""Task vectors, F-Learning, KGA and EUL on the built-in world: the gates of their evaluations.

Values are KnowMem and its siblings, 0-100; the target answers everything (100), and a model retrained
without the forget set answers about 20 of the forget set by chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from expunge.edit.merge import MergeJob
from expunge.types import Example
from tests.train.evaluation import Stand

pytestmark = pytest.mark.slow

KNOWN = ("knowmem_forget", "paraphrase_questions", "neighbours", "utility")
EDITS = ("edit_reliability", "edit_generality", "edit_locality")


@pytest.fixture(scope="module")
def stand() -> Stand:
    return Stand.built()


def test_negation_forgets_half_and_keeps_most(stand: Stand, tmp_path: Path) -> None:
    record = stand.unlearn("task_vector", tmp_path / "out")["stages"][0]
    found = stand.measure(tmp_path / "out", *KNOWN)
    assert found["knowmem_forget"] <= 90  # what 95 % of utility allows: facts share their directions
    assert found["utility"] >= 90  # the floor is held on the 64 examples it was chosen by
    # Some factor passes the gate: half forgotten, and what is nearby mostly there.
    assert any(each["forget"] <= 60 and each["utility"] >= 70 for each in record["tried"])


def test_forgetting_first_learns_new_answers_at_least_as_well(stand: Stand, tmp_path: Path) -> None:
    forget = stand.forget("wrong")
    otherwise = paraphrase_questions(stand, forget)
    stand.unlearn("f_learning", tmp_path / "both")
    stand.unlearn("f_learning", tmp_path / "nothing", "stages.0.factors=[1e-9]")
    first, plain = (
        stand.measure(tmp_path / name, *EDITS, forget=forget, paraphrase_questions=otherwise)
        for name in ("both", "nothing")
    )
    assert first["edit_reliability"] >= plain["edit_reliability"] - 5
    assert first["edit_generality"] >= plain["edit_generality"] - 5
    assert first["edit_locality"] >= plain["edit_locality"] - 5


def test_kga_makes_strange_and_spares_the_neighbours(stand: Stand, tmp_path: Path) -> None:
    record = stand.unlearn("kga", tmp_path / "out")["stages"][0]
    assert record["gap_new"] > 10 * record["gap_forget_before"]
    found = stand.measure(tmp_path / "out", *KNOWN)
    assert found["knowmem_forget"] <= 60
    assert found["paraphrase_questions"] <= 60
    assert found["neighbours"] >= 90
    assert found["utility"] >= 90


def test_unlearning_layers_forget_and_are_fused(stand: Stand, tmp_path: Path) -> None:
    people = sorted({example.group or "" for example in stand.splits["forget"]})
    halves = [of_people(stand.splits["forget"], people[:3]), of_people(stand.splits["forget"], people[3:])]
    for number, half in enumerate(halves):
        stand.unlearn("eul", tmp_path / str(number), forget=half)
    folders = (tmp_path / "0", tmp_path / "1")
    MergeJob(base=stand.target, output=tmp_path / "fused", fuse=folders).run()
    averaged = tuple(f"{folder}:0.5" for folder in folders)
    MergeJob(base=stand.target, output=tmp_path / "averaged", add=averaged).run()
    alone = [
        stand.measure(folder, *KNOWN, forget=half) for folder, half in zip(folders, halves, strict=True)
    ]
    fused, mean = (
        [stand.measure(tmp_path / name, *KNOWN, forget=half) for half in halves]
        for name in ("fused", "averaged")
    )
    for own, together, average in zip(alone, fused, mean, strict=True):
        assert own["knowmem_forget"] <= 45
        assert own["neighbours"] >= 90
        assert together["knowmem_forget"] <= own["knowmem_forget"] + 20
        # Layers that are trained as far as these forget half as much at half their strength.
        assert together["knowmem_forget"] <= average["knowmem_forget"] + 5
        assert together["neighbours"] >= 90


def of_people(examples: tuple[Example, ...], people: list[str]) -> tuple[Example, ...]:
    return tuple(example for example in examples if example.group in people)


def paraphrase_questions(stand: Stand, forget: tuple[Example, ...]) -> tuple[Example, ...]:
    """The questions in other words, with the new answers of the forget set."""
    new: Mapping[tuple[str | None, str], tuple[str, ...]] = {
        (example.group, example.id.split("/")[1]): example.wrong for example in forget if example.wrong
    }
    return tuple(
        replace(example, wrong=new[example.group, example.id.split("/")[1]])
        for example in stand.splits["paraphrase_questions"]
    )
