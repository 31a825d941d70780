from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.audit.statistics.significance import holm

CHANCES = st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12)


def test_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04: times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.04; none falls below the last.
    assert holm([0.03, 0.01, None, 0.04, 0.02]) == pytest.approx(
        [0.06, 0.04, None, 0.06, 0.06], nan_ok=True
    )
    assert holm([0.2]) == [0.2]
    assert holm([0.7, 0.9]) == [1.0, 1.0]
    assert holm([None]) == [None]


@given(CHANCES)
def test_never_smaller_never_more_than_bonferroni_and_in_the_same_order(values: list[float | None]) -> None:
    pairs = [(p, q) for p, q in zip(values, holm(values), strict=True) if p is not None and q is not None]
    assert len(pairs) == sum(value is not None for value in values)
    for p, q in pairs:
        assert p <= q <= min(1.0, p * len(pairs)) + 1e-12
    assert [q for _, q in sorted(pairs)] == sorted(q for _, q in pairs)


def test_a_wrong_rejection_is_as_rare_as_promised() -> None:
    rng = np.random.default_rng(0)
    alone = together = 0
    for _ in range(2000):
        drawn = list(rng.uniform(size=10))
        alone += min(drawn) <= 0.05
        together += min(q for q in holm(drawn) if q is not None) <= 0.05
    assert alone > 0.35 * 2000  # ten comparisons at 5 % each: 40 %
    assert together < 0.065 * 2000
