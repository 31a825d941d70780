"""Two ways of measuring what MUSE measures, where public code disagrees.

``muse`` is the code released with the paper: words as they are, the truth of a continuation cut at as many
tokens as are generated, an AUC near 0 when the forget set is memorised, end tokens included.

``open_unlearning`` is the suite of that name: stems of words, the truth as long as 2,048 tokens leave it,
an AUC near 1 then, the first 2,048 tokens of a text, no end token in token-wise attacks. Its shares of 1
are given here times 100 where MUSE's are, so that one column has one scale.

PrivLeak is always relative to a retrained model that was measured. It is the same number under both only
where texts have no end token and are no longer than that: the end token of an answer counts under ``muse``
and not under ``open_unlearning``.
"""

from __future__ import annotations

from typing import Literal

Protocol = Literal["muse", "open_unlearning"]

READ = 2048
"""Tokens that open-unlearning reads of a text."""


def stems(protocol: Protocol, *, stemmer: bool) -> bool:
    """Whether words are reduced to their stems before they are compared."""
    return stemmer or protocol == "open_unlearning"
