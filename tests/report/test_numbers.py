from __future__ import annotations

import pytest

from expunge.audit.statistics.bootstrap import Estimate
from expunge.report import numbers


@pytest.mark.parametrize(
    ("value", "scale", "sign", "shown"),
    [
        (51.66, "0-100", False, "51.7"),
        (100.0, "0-100", False, "100"),
        (-0.04, "", True, "+0.0"),
        (-9.06, "", True, "−9.1"),
        (0.333, "0-1", False, "0.33"),
        (0.0127, "p-value", False, "0.0127"),
        (0.1017, "nats, 0 is best", False, "0.102"),
        (None, "", True, "–"),
    ],
)
def test_numbers(value: float | None, scale: str, sign: bool, shown: str) -> None:
    assert numbers.number(value, scale=scale, sign=sign) == shown


def test_intervals() -> None:
    assert numbers.interval(Estimate(48.3, 19.4, 76.52), sign=True) == "+19.4 to +76.5"
    assert numbers.interval(Estimate(1.0)) == ""
    assert numbers.interval(None) == ""


def test_units() -> None:
    assert [numbers.duration(s) for s in (1.24, 42, 61, 7500)] == [
        "1.2 s",
        "42 s",
        "1 min 1 s",
        "2 h 5 min",
    ]
    assert [numbers.memory(m) for m in (590.3, 2048)] == ["590 MiB", "2.0 GiB"]
    assert numbers.thousands(1_581_056) == "1\u202f581\u202f056"
    assert [numbers.plural(n, "text") for n in (0, 1, 2)] == ["0 texts", "1 text", "2 texts"]
