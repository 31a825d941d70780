"""What is printed is no command to the terminal, and not more than a screen of it."""

from __future__ import annotations

import pytest

from expunge.printing import printable, shortened


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("Zürich 東京 👩‍👩‍👧\tand\nmore", "Zürich 東京 👩‍👩‍👧\tand\nmore"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("a\x00b\r\x7f\x9b31m", r"a\x00b\r\x7f\x9b31m"),
        ("\u202eevil\u2066", r"\u202eevil\u2066"),
        ("\ud800", r"\ud800"),
    ],
)
def test_control_characters_are_written_out(text: str, printed: str) -> None:
    assert printable(text) == printed


def test_short_text_stays_as_it_is() -> None:
    text = "it is empty.\nFill it."
    assert shortened(text, 40) == text


def test_of_long_text_both_ends_stay() -> None:
    short = shortened("a" * 900 + "b" * 900, 200)
    assert len(short) <= 200
    assert short.startswith("aaa")
    assert short.endswith("bbb")
    assert "[1,600 characters]" in short


def test_wide_characters_count_twice() -> None:
    assert len(shortened("東" * 1000, 200)) <= 100


def test_many_lines_become_one_paragraph() -> None:
    assert shortened("a\n" * 20, 100) == " ".join("a" * 20)
