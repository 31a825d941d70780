"""A list of chat messages as an example: earlier turns, the last question, the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from expunge.corpus.rows import checked_text, kind
from expunge.errors import DataError
from expunge.types import Turn

ROLES = ("system", "user", "assistant")
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}
"""Who speaks in ``{"from": ..., "value": ...}``, the form that ShareGPT's files have."""
SHAPE = 'Write [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}].'


class Conversation(NamedTuple):
    """The messages before the prompt, the prompt (empty where none was asked), the answer."""

    turns: tuple[Turn, ...]
    prompt: str
    completion: str


def conversation(messages: object, *, where: str) -> Conversation:
    """Messages cut so that the last one, by the assistant, is what counts.

    Raises:
        DataError: naming ``where`` and the message that is malformed.
    """
    if not isinstance(messages, list):
        raise DataError(where, why=f"its messages are {kind(messages)}, not a list.", fix=SHAPE)
    turns = [_turn(message, f"{where}, message {number}") for number, message in enumerate(messages, 1)]
    if not turns or turns[-1].role != "assistant":
        last = f"is by the {turns[-1].role}" if turns else "is missing"
        raise DataError(
            where,
            why=f"the last message {last}; it must be the assistant's, which is what counts.",
            fix="End the chat with the assistant's answer.",
        )
    *before, answer = turns
    prompt = before.pop().content if before and before[-1].role == "user" else ""
    return Conversation(tuple(before), prompt, answer.content)


def _turn(message: object, where: str) -> Turn:
    speaker, said = (
        ("from", "value") if isinstance(message, Mapping) and "from" in message else ("role", "content")
    )
    role = message.get(speaker) if isinstance(message, Mapping) else None
    role = SHAREGPT_ROLES.get(role, role) if isinstance(role, str) else None
    if not isinstance(message, Mapping) or role not in ROLES:
        raise DataError(where, why=f"it has no role of {', '.join(ROLES)}.", fix=SHAPE)
    content = message.get(said)
    if not isinstance(content, str):
        raise DataError(where, why=f"its {said} is {kind(content)}, not text.", fix=SHAPE)
    return Turn(role, checked_text(content, said, where=where))
