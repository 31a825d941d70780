"""Malformed JSON and YAML: one kind of error, in bounded time, and plain values otherwise."""

from __future__ import annotations

import contextlib
import datetime as dt
import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from expunge.catalogue import recipe_names, recipe_text
from expunge.parsing import MAX_DEPTH, MAX_DIGITS, MAX_YAML_CHARACTERS, ParseError, load_json, load_yaml

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(PLAIN)
def test_json_values_are_those_of_the_standard_library(value: object) -> None:
    text = json.dumps(value)
    assert load_json(text) == json.loads(text)
    assert load_json(b"\xef\xbb\xbf" + text.encode()) == value


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_are_read_as_pyyaml_reads_them(name: str) -> None:
    assert load_yaml(recipe_text(name)) == yaml.safe_load(recipe_text(name))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "key 'a' is given 2 times"),
        ('[{"x": {"a": 1, "a": 1}}]', "key 'a' is given 2 times"),
        ("[" * 200_000, "nested"),
        ("[" * 100_000 + "]" * 100_000, "nested"),
        ('{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1), "nested"),
        ("9" * 5000, "5,000 digits"),
        ('{"id": -' + "9" * MAX_DIGITS + "}", "301 digits"),
        ('{"a"\n1}', "at line 2, character 1"),
        (b"\xff\xfe[\0]\0", "not UTF-8"),
        ("", "Expecting value"),
    ],
)
def test_json_that_is_refused(text: str | bytes, reason: str) -> None:
    with pytest.raises(ParseError, match=reason):
        load_json(text)


def test_json_at_the_limits_is_read() -> None:
    assert load_json("9" * MAX_DIGITS) == 10**MAX_DIGITS - 1
    assert len(str(load_json("[" * MAX_DEPTH + "]" * MAX_DEPTH))) == 2 * MAX_DEPTH
    # Brackets inside a text are no nesting.
    assert load_json(json.dumps(["[" * 5000])) == ["[" * 5000]


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\na: 2", "key 'a' is given 2 times"),
        ("a: {b: 1, 'b': 2}", "key 'b' is given 2 times"),
        ("1: a", "key 1 is not text"),
        ("yes: a", "key True is not text"),
        ("[1]: a", "unhashable"),
        ("a: " + "9" * 5000, "5,000 digits"),
        ("a: 0x" + "f" * 5000, "5,002 digits"),
        ("a: 0b_", "invalid literal"),
        ("[" * 1500, "nested"),
        ("[" * 1500 + "]" * 1500, "nested"),
        ("- " * 20_000 + "a", "nested"),
        ("&a [*a]", "nested"),
        (BOMB, "more than 20,000 values"),
        ("a: [1\nb", "at line 2"),
        ("!!set {a}", "tag"),
        ("!!binary aGk=", "tag"),
        ("!!timestamp 2020-01-01", "tag"),
        ("!!python/object/apply:os.getcwd []", "constructor"),
        ("!!bool x", "x"),
        ("!!int ''", "."),
        ("!!float .", "float"),
        ("!!map 3", "expected a mapping"),
        ("a: =", "constructor"),
        (r'a: "\ud800"', "half a character"),
        ("a: \0", "special characters"),
        ("#" * (MAX_YAML_CHARACTERS + 1), "characters"),
    ],
)
def test_yaml_that_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ParseError, match=reason):
        load_yaml(text)


def test_yaml_dates_are_text() -> None:
    assert load_yaml("2020-01-01: 2020-01-01 10:00:00") == {"2020-01-01": "2020-01-01 10:00:00"}
    assert yaml.safe_load("2020-01-01") == dt.date(2020, 1, 1)  # PyYAML's own loader is left alone


def test_a_merged_key_may_be_given_again() -> None:
    assert load_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}")["b"] == {"x": 3, "y": 2}


@given(st.text(st.sampled_from("&*a:!<>=[]{}-? \n'\"%|#1_0x.~"), max_size=40))
def test_any_yaml_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ParseError):  # and no other error
        json.dumps(load_yaml(text))
