from __future__ import annotations

from collections import Counter

from expunge.corpus.readers import sample

ROWS = tuple(range(400))


def test_a_sample_is_spread_over_the_rows_and_keeps_their_order() -> None:
    drawn = sample(ROWS, 40, seed=0, name="forget")
    assert len(drawn) == len(set(drawn)) == 40
    assert list(drawn) == sorted(drawn)
    # Of 40 from 400, each quarter is expected to give ten; the first 40 rows would give the first all.
    assert all(3 <= count <= 20 for count in Counter(row // 100 for row in drawn).values())


def test_seed_and_name_decide_and_nothing_else() -> None:
    drawn = sample(ROWS, 40, seed=0, name="forget")
    assert sample(list(ROWS), 40, seed=0, name="forget") == drawn
    assert sample(ROWS, 40, seed=1, name="forget") != drawn
    assert sample(ROWS, 40, seed=0, name="retain") != drawn


def test_no_more_than_there_are() -> None:
    assert sample(ROWS, 400, seed=0, name="forget") == ROWS
    assert sample((), 3, seed=0, name="forget") == ()
