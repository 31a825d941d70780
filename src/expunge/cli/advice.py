"""Advice for the verb that was typed: a refusal is written once, and verbs differ in their options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
SENTENCE = re.compile(r"(?<=[.;])\s+")
ALTERNATIVE = re.compile(r",? or (?=[^)]*(?:\(|$))")  # outside brackets
BRACKETS = re.compile(r"\s*\([^()]*\)")
OTHER_COMMANDS = ("expunge ", "pip ", "hf ")
"""What a line names that is to be typed instead: its options are not those of the verb."""


class Verb(NamedTuple):
    """What was typed: the verb, and the options it has."""

    name: str
    options: frozenset[str]


def typed_verb(command: Any, arguments: Sequence[str]) -> Verb:
    """The verb that arguments begin with; options of the program itself may stand before it.

    ``command`` is the program's, as ``typer.main.get_command`` gives it.
    """
    names: list[str] = []
    for argument in arguments:
        inside = getattr(command, "commands", {})
        if argument in inside:
            command = inside[argument]
            names.append(argument)
    options = (
        name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)
    )
    return Verb(" ".join(names), frozenset(options))


def fitting(fix: str, verb: Verb) -> str:
    """``fix`` without the parts that name options which the verb does not have."""
    if _fits(fix, verb):
        return fix
    kept = [part for sentence in SENTENCE.split(fix) if (part := _fitting(sentence, verb))]
    return " ".join(kept) or f"'expunge {verb.name}' has no option for it: change what it is given."


def _fitting(sentence: str, verb: Verb) -> str:
    """The alternatives of a sentence that the verb can carry out; empty if there are none."""
    sentence = BRACKETS.sub(lambda match: match[0] if _fits(match[0], verb) else "", sentence)
    if _fits(sentence, verb):
        return sentence
    kept = [part for part in ALTERNATIVE.split(sentence) if _fits(part, verb)]
    text = " or ".join(kept).strip().rstrip(".,;")
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _fits(text: str, verb: Verb) -> bool:
    named = set(OPTION.findall(text))
    return named <= verb.options or any(word in text for word in OTHER_COMMANDS)
