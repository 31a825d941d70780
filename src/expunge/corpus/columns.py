"""The columns of a data file as examples: text, questions, chats and other answers."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from typing import TYPE_CHECKING, NamedTuple

from expunge.corpus.rows import ALIASES, DataRow, RowReader, checked_text, kind
from expunge.corpus.spans import check_disjoint, check_spans
from expunge.corpus.templates import TEMPLATE_DATE
from expunge.errors import DataError, did_you_mean
from expunge.types import Example, Turn

if TYPE_CHECKING:
    from collections.abc import Sequence


class Answers(NamedTuple):
    """The right answer, the wrong ones, its place among all of them, and how else it may be said."""

    right: str
    wrong: tuple[str, ...] = ()
    correct_index: int = 0
    paraphrase: str | None = None


def answers(reader: RowReader, right: str) -> Answers:
    """The ``right`` answer and what comes with it: ``wrong`` answers, its ``place``, a ``paraphrase``.

    Without a ``place`` it is the alphabetical one. So the same options are in the same order in every row
    of every file, and the place tells which of them is right; with the right one always first it would
    tell nothing.

    Raises:
        DataError: one of them is no text, or the place is beyond the last wrong answer.
    """
    wrong = reader.texts("wrong")
    given = reader.number("place")
    alphabetical = sum(each < right for each in wrong)
    correct_index = alphabetical if given is None or not wrong else given
    if correct_index > len(wrong):
        raise DataError(
            reader.where,
            why=f"the right answer's place is {correct_index}, and there are {len(wrong)} wrong ones.",
            fix="Count its place among all answers from 0.",
        )
    paraphrase = None if reader.value("paraphrase") is None else reader.text("paraphrase")
    return Answers(right, wrong, correct_index, paraphrase)


def chosen(reader: RowReader, choices: tuple[str, ...], *, lettered: bool) -> Answers:
    """The answer among ``choices``: given as its text, or as its index from 0.

    ``lettered`` replaces them by " A", " B", ... because the prompt lists them.

    Raises:
        DataError: the row's answer is none of the choices, or they cannot be distinguished by it.
    """
    answer = reader.value("answer")
    correct_index = (
        choices.index(answer) if isinstance(answer, str) and answer in choices else reader.number("answer")
    )
    if (
        correct_index is None
        or not correct_index < len(choices) <= len(ascii_uppercase)
        or len(set(choices)) < len(choices)
    ):
        raise DataError(
            reader.where,
            why=f"{answer!r} does not identify one of its {len(choices)} choices.",
            fix=f"Give different choices, {len(ascii_uppercase)} at most, and the right one by its text or "
            "its place, counted from 0.",
        )
    options = tuple(f" {letter}" for letter in ascii_uppercase[: len(choices)]) if lettered else choices
    return Answers(
        options[correct_index], options[:correct_index] + options[correct_index + 1 :], correct_index
    )


def listed(choices: tuple[str, ...]) -> str:
    """Choices as a prompt lists them: one a line, after its letter."""
    return "\n".join(
        f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False)
    )


# A list of chat messages as an example: earlier turns, the last question, the answer.

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


# Which column means what: a row of a data file as an example.

SCHEMAS = (("messages",), ("prompt", "completion"), ("question", "answer"), ("text",))
CONTENT = frozenset(field for schema in SCHEMAS for field in schema)
BESIDE = ("wrong", "choices", "place", "paraphrase")
KNOWN = (*sorted(CONTENT), "id", "group", "spans", *BESIDE)
GROUPS = ("group", "person", "author", "document")
CHOICES = "choices"
QUESTION = "Question: {question}\nAnswer: "
UNDERSTOOD = "Understood: text; prompt and completion; question and answer; messages."
HELP = 'Name your own columns with fields, for instance {"text": "body"} (--field text=body).'
QUESTIONS = ("prompt", "question", "instruction", "query", "input", "user")
ANSWERS = ("completion", "response", "answer", "output", "target", "assistant", "chosen")
TEXTS = ("content", "body", "document", "passage", "article", "story", "sentence")
"""What columns are often called, in the order they are proposed in where a row is not understood."""
TEMPLATE = "template"
"""Among the fields, how a question becomes a prompt; no column has that name."""


def reading(fields: Mapping[str, str] | None = None) -> dict[str, str]:
    """How texts are read, for a run's record: the template of questions, and the date of chat templates."""
    return {
        "question_template": (fields or {}).get(TEMPLATE, QUESTION),
        "chat_template_date": TEMPLATE_DATE.isoformat(),
    }


@dataclass(frozen=True, slots=True)
class Columns:
    """How rows are read: which column holds which field, and how a question becomes a prompt.

    Raises:
        DataError: a field is unknown, or the template has no place for the question.
    """

    fields: Mapping[str, str]
    template: str = QUESTION

    def __post_init__(self) -> None:
        """Refuse what could never work, before any file is opened."""
        for field in self.fields:
            if field not in KNOWN:
                raise DataError(
                    f"field {field!r}",
                    why="no example has a field of that name.",
                    fix=did_you_mean(field, KNOWN),
                )
        if "question" not in _places(self.template):
            raise DataError(
                f"template {self.template!r}",
                why="it has no place for the question.",
                fix="Write {question} where the question goes.",
            )

    def example(self, row: DataRow) -> Example:
        """The example a row holds.

        Raises:
            DataError: naming the row, and what is missing, empty, or of the wrong type.
        """
        reader = RowReader(row, self.fields)
        schema = _schema(reader, self.fields)
        content, others = self._content(schema, reader)
        spans = reader.spans()
        check_spans(spans, content.completion, where=row.where)
        check_disjoint(spans, where=row.where)
        groups = ("group",) if "group" in self.fields else GROUPS
        return Example(
            id=reader.label("id") or row.name,
            completion=content.completion,
            prompt=content.prompt,
            spans=spans,
            group=next(filter(None, map(reader.label, groups)), None),
            turns=content.turns,
            is_chat=schema == ("messages",),
            wrong=others.wrong,
            correct_index=others.correct_index,
            paraphrase=others.paraphrase,
        )

    def _content(self, schema: tuple[str, ...], reader: RowReader) -> tuple[Conversation, Answers]:
        if schema == ("messages",):
            dialogue = conversation(reader.value("messages"), where=reader.where)
            return dialogue, answers(reader, dialogue.completion)
        if schema == ("question", "answer"):
            return self._asked(reader)
        prompt = reader.text("prompt", may_be_empty=True) if schema[0] == "prompt" else ""
        right = reader.text(schema[-1])
        return Conversation((), prompt, right), answers(reader, right)

    def _asked(self, reader: RowReader) -> tuple[Conversation, Answers]:
        places = _places(self.template)
        choices = reader.texts(CHOICES)
        if CHOICES in places and not choices:
            raise DataError(
                reader.where,
                why="the template lists choices, and the row has none.",
                fix='Give it "choices": ["...", ...], or take {choices} out of the template.',
            )
        known = {name: _asked_for(reader, name) for name in places if name != CHOICES}
        prompt = self.template.format_map(known | {CHOICES: listed(choices)})
        if choices:
            others = chosen(reader, choices, lettered=CHOICES in places)
        else:
            others = answers(reader, reader.text("answer"))
        return Conversation((), prompt, others.right), others


def _schema(reader: RowReader, fields: Mapping[str, str]) -> tuple[str, ...]:
    """Which of the understood sets of fields a row has; one that ``fields`` names goes first."""
    given = CONTENT & fields.keys()
    near = [schema for schema in SCHEMAS if not given or given & set(schema)]
    filled = [schema for schema in near if all(reader.value(field) is not None for field in schema)]
    if len(filled) == 1:
        return filled[0]
    if filled:
        field = filled[0][-1]
        column = reader.column(field)
        sets = (" and ".join(map(reader.column, schema)) for schema in filled)
        raise DataError(
            reader.where,
            why=f"it could be read as {', or as '.join(sets)}.",
            fix=f'Say which with fields, as in {{"{field}": "{column}"}} (--field {field}={column}).',
        )
    for schema in near:
        if all(map(reader.has, schema)):
            raise reader.empty(next(field for field in schema if reader.value(field) is None))
    raise DataError(
        reader.where,
        why=f"none of the understood sets of fields is there; found: {reader.found}.",
        fix=f"{UNDERSTOOD} {_mapping(reader.columns) or HELP}",
    )


def _asked_for(reader: RowReader, name: str) -> str:
    """What a row puts in a place of the template; Alpaca's ``input`` belongs to its ``instruction``."""
    text = reader.text(name)
    if name == "question" and reader.column(name) == ALIASES[name] and name not in reader.fields:
        given = reader.text("input", may_be_empty=True) if reader.value("input") is not None else ""
        return f"{text}\n{given}" if given.strip() else text
    return text


def _mapping(columns: Sequence[str]) -> str | None:
    """The options that make a row understood, where its columns have names that are often used."""
    asked = next((name for name in QUESTIONS if name in columns), None)
    answer = next((name for name in ANSWERS if name in columns and name != asked), None)
    text = next((name for name in TEXTS if name in columns), None)
    if asked and answer:
        pair = ("prompt", "completion") if asked == "prompt" else ("question", "answer")
        fields = {field: name for field, name in zip(pair, (asked, answer), strict=True) if field != name}
    elif text:
        fields = {"text": text}
    else:
        return None
    options = " ".join(f"--field {field}={name}" for field, name in fields.items())
    return f"If these columns hold what their names say: {options}"


def _places(template: str) -> list[str]:
    """The names a template has places for."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise DataError(
            f"template {template!r}",
            why=f"it is malformed: {error}.",
            fix="Write {question} where the question goes, and {{ or }} for a brace.",
        ) from error
    odd = [name for _, name, form, how in parts if form or how or (name and set(name) & set(".["))]
    if odd:
        raise DataError(
            f"template {template!r}",
            why=f"the place of {odd[0]!r} holds more than a column's name.",
            fix="Write {column}, without a format, and {{ or }} for a brace.",
        )
    return [name for _, name, _, _ in parts if name is not None]
