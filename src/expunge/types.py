"""The values that travel between rooms: one example, one score."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Span(NamedTuple):
    """A half-open range of characters, ``[start, end)``, inside a completion."""

    start: int
    end: int


class Turn(NamedTuple):
    """One earlier message of a chat: who spoke (``system``, ``user``, ``assistant``) and what."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One text to forget or keep.

    A document has an empty ``prompt`` and its text in ``completion``; a question has both.
    ``spans`` names the sensitive characters of the completion (empty: all of it counts).
    ``group`` is the person or document the example belongs to; intervals are clustered by it.
    ``turns`` are the messages before the prompt when the example is a chat.
    ``wrong`` are other answers to the same question, none of them right; where they are choices in an
    order, ``correct_index`` is that of the right one among them. ``paraphrase`` is the right answer in
    other words.
    """

    id: str
    completion: str
    prompt: str = ""
    spans: tuple[Span, ...] = ()
    group: str | None = None
    turns: tuple[Turn, ...] = ()
    is_chat: bool = False
    wrong: tuple[str, ...] = ()
    correct_index: int = 0
    paraphrase: str | None = None

    @property
    def choices(self) -> tuple[str, ...]:
        """All answers in their order, the right one among them."""
        return (*self.wrong[: self.correct_index], self.completion, *self.wrong[self.correct_index :])

    @property
    def is_document(self) -> bool:
        """Whether this is running text without a prompt."""
        return not self.prompt and not self.is_chat

    @property
    def text(self) -> str:
        """Prompt and completion as one string."""
        return self.prompt + self.completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What one metric says of one item: a value, or ``None`` with the reason it has none.

    ``detail`` holds what a reader wants with the number (the truth, what the model said).
    """

    item: str
    value: float | None
    group: str | None = None
    unscored: str | None = None
    detail: dict[str, str] = field(default_factory=dict)
