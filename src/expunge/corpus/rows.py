"""One row of a data file, and typed look-ups in it that refuse with the row's place."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import NamedTuple

from expunge.errors import DataError, did_you_mean
from expunge.parsing import ParseError, load_json, whole_number
from expunge.types import Span

RANGES = "[[start, end], ...]"
TEXTS = '["...", ...]'
ALIASES = {
    "messages": "conversations",
    "completion": "response",
    "question": "instruction",
    "answer": "output",
    "wrong": "perturbed_answer",
    "paraphrase": "paraphrased_answer",
}
"""What widely used files call a field: ShareGPT, prompt and response, Alpaca, TOFU.

A column that bears the field's own name goes first.
"""
INVISIBLE = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
"""Unicode categories of characters that show nothing: controls, formats (zero width), separators."""


class DataRow(NamedTuple):
    """One row as read: its location (for errors), the id it gets by default, its values."""

    where: str
    name: str
    values: object


class RowReader:
    """What the fields of one row hold, each taken from the column that ``fields`` names for it."""

    def __init__(self, row: DataRow, fields: Mapping[str, str]) -> None:
        if not isinstance(row.values, Mapping):
            raise DataError(
                row.where,
                why=f"the row is {kind(row.values)}, not an object with named fields.",
                fix='Write rows such as {"text": "..."}.',
            )
        self.where = row.where
        self.columns = list(map(str, row.values))
        self.found = ", ".join(self.columns) or "nothing"
        self.fields = fields
        self._values = row.values

    def column(self, field: str) -> str:
        """The column a field is taken from: the one asked for, its own, or its usual other name."""
        if field in self.fields:
            return self.fields[field]
        alias = ALIASES.get(field, field)
        return field if self._values.get(field) is not None or alias not in self._values else alias

    def has(self, field: str) -> bool:
        """Whether the row has the field's column, filled or not."""
        return self.column(field) in self._values

    def value(self, field: str) -> object:
        """What the field's column holds; None where an optional column is absent."""
        column = self.column(field)
        if field in self.fields and column not in self._values:
            raise DataError(
                self.where,
                why=f"there is no column {column!r} to take the {field} from; found: {self.found}.",
                fix=did_you_mean(column, self.columns),
            )
        return self._values.get(column)

    def text(self, field: str, *, may_be_empty: bool = False) -> str:
        """A field that must be text, and not blank."""
        value = self.value(field)
        if value is None:
            raise self.empty(field)
        if not isinstance(value, str):
            raise self._wrong(field, value, "text")
        return checked_text(value, self.column(field), where=self.where, may_be_empty=may_be_empty)

    def label(self, field: str) -> str | None:
        """A name or number as text; None where absent or empty."""
        value = self.value(field)
        if value is None or value == "":
            return None
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self._wrong(field, value, "text or a whole number")
        return checked_text(str(value), self.column(field), where=self.where)

    def texts(self, field: str) -> tuple[str, ...]:
        """A list of texts; a table's cell may hold it as JSON. Empty where the column is absent."""
        value = self.value(field)
        if isinstance(value, str):
            value = self._json(field, value, TEXTS)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise self._wrong(field, value, TEXTS)
        column = self.column(field)
        return tuple(checked_text(text, column, where=self.where) for text in value)

    def number(self, field: str) -> int | None:
        """A whole number from 0 on; None where the column is absent."""
        value = self.value(field)
        if value is None:
            return None
        number = whole_number(value) if isinstance(value, str) else value
        if type(number) is not int or number < 0:
            raise self._wrong(field, value, "a whole number from 0 on")
        return number

    def spans(self) -> tuple[Span, ...]:
        """The sensitive ranges; a table's cell may hold them as JSON."""
        value = self.value("spans")
        if isinstance(value, str):
            value = self._json("spans", value, RANGES)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(_is_range(pair) for pair in value):
            raise self._wrong("spans", value, RANGES)
        return tuple(Span(*pair) for pair in value)

    def empty(self, field: str) -> DataError:
        """The refusal of a row whose field is not filled."""
        return empty_field(self.column(field), where=self.where)

    def _json(self, field: str, value: str, wanted: str) -> object:
        try:
            parsed: object = load_json(value or "[]")
        except ParseError as error:
            raise self._wrong(field, value, f"{wanted} ({error})") from error
        return parsed

    def _wrong(self, field: str, value: object, wanted: str) -> DataError:
        return DataError(
            self.where,
            why=f"its {self.column(field)!r} is {kind(value)}, not {wanted}.",
            fix="Correct the row, or take the field from another column with fields (--field).",
        )


def checked_text(text: str, field: str, *, where: str, may_be_empty: bool = False) -> str:
    """``text`` itself, refused when nothing of it can be seen, or when it holds what is no character."""
    if not may_be_empty and all(unicodedata.category(letter) in INVISIBLE for letter in text):
        if not text.strip():
            raise empty_field(field, where=where)
        raise DataError(
            where,
            why=f"its {field!r} holds nothing but characters that cannot be seen.",
            fix="Give it some text, or take the row out.",
        )
    if "\0" in text:
        raise DataError(
            where,
            why=f"its {field!r} holds a NUL (\\u0000) at position {text.index(chr(0))}.",
            fix="Take it out: it is no text, and most tokenizers and tools end or change a text there.",
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            where,
            why=f"its {field!r} holds half a character (a lone surrogate) at position {error.start}.",
            fix="Write the text again from its source as UTF-8.",
        ) from error
    return text


def empty_field(field: str, *, where: str) -> DataError:
    """The refusal of a row whose text is not there."""
    return DataError(where, why=f"its {field!r} is empty.", fix="Give it some text, or take the row out.")


def kind(value: object) -> str:
    """What a value is, in words for people."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "an object"
    names = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), f"a {type(value).__name__}")


def _is_range(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(type(end) is int for end in pair)
