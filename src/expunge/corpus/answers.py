"""Other answers than the right one, as a row gives them: wrong ones, choices in order, a rewording."""

from __future__ import annotations

from string import ascii_uppercase
from typing import TYPE_CHECKING, NamedTuple

from expunge.errors import DataError

if TYPE_CHECKING:
    from expunge.corpus.rows import RowReader


class Answers(NamedTuple):
    """The right answer, the wrong ones, its place among all of them, and how else it may be said."""

    right: str
    wrong: tuple[str, ...] = ()
    place: int = 0
    paraphrase: str | None = None


def answers(reader: RowReader, right: str) -> Answers:
    """The ``right`` answer and what stands beside it: ``wrong`` answers, its ``place``, a ``paraphrase``.

    Without a ``place`` it is the alphabetical one. So the same options are in the same order in every row
    of every file, and the place tells which of them is right; with the right one always first it would
    tell nothing.

    Raises:
        DataError: one of them is no text, or the place is beyond the last wrong answer.
    """
    wrong = reader.texts("wrong")
    given = reader.number("place")
    alphabetical = sum(each < right for each in wrong)
    place = alphabetical if given is None or not wrong else given
    if place > len(wrong):
        raise DataError(
            reader.where,
            why=f"the right answer's place is {place}, and there are {len(wrong)} wrong ones.",
            fix="Count its place among all answers from 0.",
        )
    paraphrase = None if reader.value("paraphrase") is None else reader.text("paraphrase")
    return Answers(right, wrong, place, paraphrase)


def chosen(reader: RowReader, choices: tuple[str, ...], *, lettered: bool) -> Answers:
    """The answer among ``choices``: told by its text, or by its place counted from 0.

    ``lettered`` stands for them by " A", " B", ... because the prompt lists them.

    Raises:
        DataError: the row's answer is none of the choices, or they cannot be told apart by it.
    """
    said = reader.value("answer")
    place = choices.index(said) if isinstance(said, str) and said in choices else reader.number("answer")
    if (
        place is None
        or not place < len(choices) <= len(ascii_uppercase)
        or len(set(choices)) < len(choices)
    ):
        raise DataError(
            reader.where,
            why=f"{said!r} does not tell one of its {len(choices)} choices.",
            fix=f"Give different choices, {len(ascii_uppercase)} at most, and the right one by its text or "
            "its place, counted from 0.",
        )
    options = tuple(f" {letter}" for letter in ascii_uppercase[: len(choices)]) if lettered else choices
    return Answers(options[place], options[:place] + options[place + 1 :], place)


def listed(choices: tuple[str, ...]) -> str:
    """Choices as a prompt lists them: one a line, after its letter."""
    return "\n".join(
        f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False)
    )
