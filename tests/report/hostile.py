"""Texts that try to break a page: markup, both writing directions, emoji, a very long answer."""

from __future__ import annotations

from tests.report.made import Made

SCRIPT = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"
RIGHT_TO_LEFT = "מי גר בחיפה? \u202eevil\u202c العربية"
EMOJI = "👩‍👩‍👧‍👦🏳️‍🌈 ok"
CONTROL = "a\x00b\x1b[31m\u2028\u2029{{ 7 * 7 }} {% raw %}"
LONG = "word " * 20_000
TEXTS = (SCRIPT, RIGHT_TO_LEFT, EMOJI, CONTROL, LONG, "=cmd()", "", "\ufeff")


def text_of(number: int) -> str:
    return TEXTS[number % len(TEXTS)]


def said_of(number: int, *, knows: bool) -> str:
    return f"{text_of(number)} {knows}"


def made() -> Made:
    """An audit whose every text, and the name of a model, is hostile."""
    knows = {"target": (1.0, 1.0, 1.0), SCRIPT: (0.25, 0.25, 1.0), RIGHT_TO_LEFT: (0.0, 0.0, 0.0)}
    return Made(prompt=text_of, truth=text_of, said=said_of, knows=knows, outcomes={})
