"""Settings of a plan as they are typed."""

from __future__ import annotations

import pytest

from expunge.errors import RecipeError
from expunge.shards.making import nested


def test_settings_are_read_as_yaml_by_their_path() -> None:
    assert nested(["a.b=1", "a.c=x", "d=[1]"], "--set") == {"a": {"b": 1, "c": "x"}, "d": [1]}


@pytest.mark.parametrize(
    ("pairs", "complaint"),
    [
        (["a"], "not of the form key=value"),
        (["a=["], "its value is not YAML"),
        (["a=" + "9" * 5000], "5,000 digits"),
        (["a=1", "a.b=2"], "--set a.b=2: 'a' is already given a value"),
    ],
)
def test_settings_that_make_no_sense_are_refused(pairs: list[str], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        nested(pairs, "--set")
