from __future__ import annotations

from typing import Any

import pytest

from expunge.corpus.batching import PairDataset
from expunge.inference.reference import CachedReference, LiveReference, ReferenceKind
from expunge.inference.token_view import Need
from expunge.scope.selection import Selection
from expunge.train.objective.reference import ReferenceRequest, frozen_reference
from tests.tiny import PAD, tiny
from tests.train.trainers import FORGET, RETAIN

DATA = PairDataset(FORGET, RETAIN)
LOGPS, KL, REVERSE = (
    frozenset({need}) for need in (Need.REFERENCE_LOGPS, Need.FORWARD_KL, Need.REVERSE_KL)
)
NOTHING = frozenset[Need]()


def made(kind: ReferenceKind, *, forget: Any = LOGPS, retain: Any = KL, adapters: bool = False) -> Any:
    asked = ReferenceRequest(
        forget=forget, retain=retain, data=DATA, forget_seen=list(range(len(DATA))), retain_seen=[0, 2]
    )
    return frozen_reference(
        tiny("llama"), kind, asked, selection=Selection({}), adapters=adapters, pad_id=PAD
    )


def streams(stored: Any) -> dict[str, list[int]]:
    return {
        stream: sorted(key.place for key in stored if key.stream == stream)
        for stream in ("forget", "retain")
    }


def test_losses_that_ask_for_nothing_get_no_reference() -> None:
    for kind in ("auto", "cache", "copy", "adapter_off"):
        assert made(kind, forget=NOTHING, retain=NOTHING, adapters=True) is None


@pytest.mark.parametrize(
    ("kind", "adapters", "expected"),
    [
        ("auto", False, CachedReference),
        ("auto", True, LiveReference),
        ("cache", True, CachedReference),
        ("copy", True, LiveReference),
        ("adapter_off", True, LiveReference),
    ],
)
def test_the_kind_that_is_asked_for(kind: ReferenceKind, adapters: bool, expected: type) -> None:
    reference = made(kind, adapters=adapters)
    assert type(reference) is expected
    if expected is LiveReference:
        assert reference.adapters_off == (kind != "copy")


@pytest.mark.parametrize(
    ("forget", "retain", "logps", "states"),
    [
        (LOGPS, NOTHING, {"forget": [0, 1, 2, 3, 4], "retain": []}, {"forget": [], "retain": []}),
        (NOTHING, KL, {"forget": [], "retain": []}, {"forget": [], "retain": [0, 2]}),
        (LOGPS, REVERSE, {"forget": [0, 1, 2, 3, 4], "retain": []}, {"forget": [], "retain": [0, 2]}),
        (KL, LOGPS, {"forget": [], "retain": [0, 2]}, {"forget": [0, 1, 2, 3, 4], "retain": []}),
    ],
)
def test_each_stream_is_remembered_as_its_loss_asks(
    forget: Any, retain: Any, logps: Any, states: Any
) -> None:
    reference = made("cache", forget=forget, retain=retain)
    assert streams(reference.token_logps) == logps
    assert streams(reference.hidden) == states
