"""Which column means what: a row of a data file as an example."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.corpus.answers import Answers, answers, chosen, listed
from expunge.corpus.messages import Conversation, conversation
from expunge.corpus.rows import Row, RowReader
from expunge.corpus.spans import check_spans
from expunge.corpus.templates import TEMPLATE_DATE
from expunge.errors import DataError, did_you_mean
from expunge.types import Example

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMAS = (("messages",), ("prompt", "completion"), ("question", "answer"), ("text",))
CONTENT = frozenset(field for schema in SCHEMAS for field in schema)
BESIDE = ("wrong", "choices", "place", "paraphrase")
KNOWN = (*sorted(CONTENT), "id", "group", "spans", *BESIDE)
GROUPS = ("group", "person", "author", "document")
CHOICES = "choices"
QUESTION = "Question: {question}\nAnswer: "
TEMPLATE = "template"
"""Among the fields, how a question becomes a prompt; no column has that name."""
HELP = (
    "Understood: text; prompt and completion; question and answer; messages. "
    'Name your own columns with fields, for instance {"text": "body"} (--field text=body).'
)


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

    def example(self, row: Row) -> Example:
        """The example a row holds.

        Raises:
            DataError: naming the row, and what is missing, empty, or of the wrong type.
        """
        reader = RowReader(row, self.fields)
        schema = _schema(reader, self.fields)
        content, others = self._content(schema, reader)
        spans = reader.spans()
        check_spans(spans, content.completion, where=row.where)
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
            place=others.place,
            paraphrase=others.paraphrase,
        )

    def _content(self, schema: tuple[str, ...], reader: RowReader) -> tuple[Conversation, Answers]:
        if schema == ("messages",):
            said = conversation(reader.value("messages"), where=reader.where)
            return said, answers(reader, said.completion)
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
        known = {name: reader.text(name) for name in places if name != CHOICES}
        prompt = self.template.format_map(known | {CHOICES: listed(choices)})
        if choices:
            others = chosen(reader, choices, lettered=CHOICES in places)
        else:
            others = answers(reader, reader.text("answer"))
        return Conversation((), prompt, others.right), others


def _schema(reader: RowReader, fields: Mapping[str, str]) -> tuple[str, ...]:
    """Which of the understood sets of fields a row has; one that ``fields`` names goes first."""
    asked = CONTENT & fields.keys()
    near = [schema for schema in SCHEMAS if not asked or asked & set(schema)]
    filled = [schema for schema in near if all(reader.value(field) is not None for field in schema)]
    if len(filled) == 1:
        return filled[0]
    if filled:
        field = filled[0][-1]
        raise DataError(
            reader.where,
            why=f"it could be read as {', or as '.join(' and '.join(schema) for schema in filled)}.",
            fix=f'Say which with fields, for instance {{"{field}": "{field}"}} (--field {field}={field}).',
        )
    for schema in near:
        if all(map(reader.has, schema)):
            raise reader.empty(next(field for field in schema if reader.value(field) is None))
    raise DataError(
        reader.where,
        why=f"none of the understood sets of fields is there; found: {reader.found}.",
        fix=HELP,
    )


def _places(template: str) -> list[str]:
    """The names a template has places for."""
    try:
        return [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise DataError(
            f"template {template!r}",
            why=f"it is malformed: {error}.",
            fix="Write {question} where the question goes, and {{ or }} for a brace.",
        ) from error
