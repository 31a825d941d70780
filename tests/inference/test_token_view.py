from __future__ import annotations

import pytest
import torch

from expunge.inference.token_view import Need, TokenView

MASK = torch.tensor([[False, True, True, False], [False, False, True, False]])
VIEW = TokenView(logps=torch.zeros(2, 4), mask=MASK, kl=torch.ones(2, 4))


def test_means_and_totals_are_over_counted_tokens() -> None:
    values = torch.tensor([[100.0, 1, 2, 100], [100, 100, 5, 100]])
    assert VIEW.total(values).tolist() == [3, 5]
    assert VIEW.mean(values).tolist() == [1.5, 5]


def test_what_was_not_asked_for_is_not_there() -> None:
    with pytest.raises(LookupError, match="reference_logps"):
        VIEW.given(Need.REFERENCE_LOGPS)
    assert VIEW.given(Need.FORWARD_KL) is VIEW.kl
