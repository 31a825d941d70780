from __future__ import annotations

from dataclasses import replace

import pytest

from expunge.errors import DataError
from expunge.metrics.probes import Probes
from tests.metrics.fakes import document, question

PROBES = Probes(
    forget=(document("d", "a text"), question("q", "who?", "me")), holdout=(document("h", "new"),)
)


def test_documents_and_questions_are_told_apart() -> None:
    assert [each.id for each in PROBES.documents("forget")] == ["d"]
    assert [each.id for each in PROBES.questions("forget")] == ["q"]
    assert PROBES.questions("holdout") == PROBES.split("retain") == ()


def test_hash_sees_every_split_and_field() -> None:
    others = [
        replace(PROBES, retain=PROBES.holdout),
        replace(PROBES, holdout=(), retain=PROBES.holdout),
        replace(PROBES, holdout=(document("h", "new", group="g"),)),
        replace(PROBES, forget=PROBES.forget[::-1]),
    ]
    assert len({PROBES.hash, *(other.hash for other in others)}) == 5
    assert replace(PROBES).hash == PROBES.hash


def test_an_id_twice_in_a_split_is_refused() -> None:
    with pytest.raises(DataError, match="'d' occurs 2 times"):
        Probes(forget=(document("d", "one"), document("d", "two")))
    # Across splits it is harmless.
    Probes(forget=(document("d", "one"),), retain=(document("d", "two"),))
