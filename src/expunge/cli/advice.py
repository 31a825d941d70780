"""Adapts the advice in an error to the command that was typed, since commands differ in their options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
SENTENCE = re.compile(r"(?<=[.;])\s+")
ALTERNATIVE = re.compile(r",? or (?=[^)]*(?:\(|$))")  # outside brackets
BRACKETS = re.compile(r"\s*\([^()]*\)")
OTHER_COMMANDS = ("expunge ", "pip ", "hf ")
"""Advice that names another program or command: its options are not checked against the current one."""


class Verb(NamedTuple):
    """The command that was typed, and the options it accepts."""

    name: str
    options: frozenset[str]


def typed_verb(command: Any, arguments: Sequence[str]) -> Verb:
    """The command that the arguments begin with; options of the program itself may precede it.

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
    """``fix`` without the parts that name options the command does not accept."""
    if _fits(fix, verb):
        return fix
    kept = [part for sentence in SENTENCE.split(fix) if (part := _fitting(sentence, verb))]
    return " ".join(kept) or f"'expunge {verb.name}' has no option for this: change its inputs."


def _fitting(sentence: str, verb: Verb) -> str:
    """The alternatives in a sentence that the command supports; empty if there are none."""
    sentence = BRACKETS.sub(lambda match: match[0] if _fits(match[0], verb) else "", sentence)
    if _fits(sentence, verb):
        return sentence
    kept = [part for part in ALTERNATIVE.split(sentence) if _fits(part, verb)]
    text = " or ".join(kept).strip().rstrip(".,;")
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _fits(text: str, verb: Verb) -> bool:
    named = set(OPTION.findall(text))
    return named <= verb.options or any(word in text for word in OTHER_COMMANDS)
