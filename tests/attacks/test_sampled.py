"""Attacks that use part of a set draw it by the seed: files are often sorted by subject."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from expunge.attacks import gcg
from expunge.attacks.gcg import AdversarialSuffix
from expunge.attacks.in_context import InContext
from expunge.attacks.relearn import Relearn
from expunge.types import Example
from tests.attacks.context import context, model

ROWS = tuple(
    Example(id=str(number), prompt=f"Q{number}? ", completion=f"A{number}") for number in range(40)
)
FIRST = [row.id for row in ROWS[:5]]


def relearned(folder: Path, seed: int) -> list[str]:
    return [row.id for row in Relearn(count=5).examples(context(folder, forget=ROWS, seed=seed))]


def shown(folder: Path, seed: int) -> list[str]:
    known = context(folder, forget=ROWS, seed=seed)
    with InContext(of="forget", count=5).applied(model(), known, None) as attacked:
        return list(attacked.facts["shown"])


def searched(folder: Path, seed: int) -> list[str]:
    questions: list[Example] = []

    def suffixes(given: Any, *_: Any) -> None:
        questions.extend(given)
        raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gcg, "Suffixes", suffixes)
        search = AdversarialSuffix(prompts=5).search
        with pytest.raises(InterruptedError):
            search(model(), context(folder, forget=ROWS, seed=seed))
    return [row.id for row in questions]


@pytest.mark.parametrize("used", [relearned, shown, searched])
def test_part_of_a_set_is_drawn_by_the_seed(used: Any, tmp_path: Path) -> None:
    drawn = used(tmp_path, 0)
    assert len(set(drawn)) == 5
    assert drawn != FIRST
    assert drawn == used(tmp_path, 0)
    assert drawn != used(tmp_path, 1)
