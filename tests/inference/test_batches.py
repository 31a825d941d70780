from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expunge.inference.batches import Batches, is_out_of_memory

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("can't allocate memory: x"),
]


class Small:
    """Has room for so many padded tokens; keeps every batch it was given."""

    def __init__(self, room: int, lengths: list[int], error: BaseException = ERRORS[0]) -> None:
        self.room, self.lengths, self.error = room, lengths, error
        self.seen: list[list[int]] = []

    def __call__(self, rows: list[int]) -> list[str]:
        self.seen.append(rows)
        if len(rows) * max(self.lengths[row] for row in rows) > self.room:
            raise self.error
        return [f"item {row}" for row in rows]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_batch_too_large_is_halved_and_the_rest_comes_smaller(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    lengths = [10] * 16
    machine, batches = Small(40, lengths, error), Batches(160)
    with caplog.at_level(logging.WARNING):
        found = batches.run(lengths, machine)
    assert found == {row: f"item {row}" for row in range(16)}
    assert [len(rows) for rows in machine.seen] == [16, 8, 4, 4, 4, 4]
    assert batches.tokens == 40
    assert "batches of 40 tokens" in caplog.messages[-1]
    machine.seen.clear()
    batches.run(lengths, machine)
    assert [len(rows) for rows in machine.seen] == [4] * 4  # the next call need not learn it again


def test_one_item_too_large_is_told() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        Batches(100).run([50], Small(10, [50]))


def test_other_errors_are_not_taken_for_it() -> None:
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape"):
        Batches(100).run([5, 5], Small(0, [5, 5], RuntimeError("shape mismatch")))


@given(st.lists(st.integers(1, 30), max_size=20), st.integers(1, 200), st.integers(30, 120))
def test_every_item_is_done_once_whatever_the_room(lengths: list[int], tokens: int, room: int) -> None:
    found = Batches(tokens).run(lengths, Small(room, lengths))
    assert found == {row: f"item {row}" for row in range(len(lengths))}
