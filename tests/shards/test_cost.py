from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.errors import RecipeError
from expunge.shards.plan import epochs_of_slices, expected_share, work


def test_epochs_by_hand() -> None:
    assert epochs_of_slices(5, 1) == [5]
    assert epochs_of_slices(2, 3) == [1, 1, 1]
    assert epochs_of_slices(20, 4) == [8, 8, 8, 8]
    assert epochs_of_slices(3, 4) == [1, 1, 1, 1]
    assert epochs_of_slices(7, 4) == [2, 3, 3, 3]


@given(st.integers(1, 12), st.integers(1, 50))
def test_slices_cost_what_training_without_them_costs(slices: int, factor: int) -> None:
    epochs = factor * (slices + 1)
    assert work([10] * slices, epochs) == epochs * 10 * slices


@given(st.integers(1, 12), st.integers(1, 60))
def test_a_slice_is_trained_on_or_refused(slices: int, epochs: int) -> None:
    if 2 * epochs >= slices + 1:
        assert min(epochs_of_slices(epochs, slices)) >= 1
        assert sum(epochs_of_slices(epochs, slices)) == 2 * epochs * slices // (slices + 1)
    else:
        with pytest.raises(RecipeError, match=f"at least {slices // 2 + 1} epochs"):
            epochs_of_slices(epochs, slices)


def test_a_deletion_by_hand() -> None:
    # 3 slices of 4: 1 epoch each on 4, 8 and 12 examples.
    assert work([4, 4, 4], 2) == 24
    assert work([3, 4, 4], 2, begin=0) == 3 + 7 + 11
    assert work([4, 4, 3], 2, begin=2) == 11


@pytest.mark.parametrize(("slices", "share"), [(1, 1.0), (2, 0.8333), (4, 0.75), (8, 0.7083)])
def test_the_expected_share_is_that_of_counting(slices: int, share: float) -> None:
    whole = work([1] * slices, slices + 1)
    counted = [work([1] * slices, slices + 1, begin=piece) / whole for piece in range(slices)]
    assert sum(counted) / slices == pytest.approx(expected_share(slices))
    assert expected_share(slices) == pytest.approx(share, abs=1e-4)
