"""JSON and YAML from files that anyone may have written: one kind of error, and only plain values.

The parsers of the standard library and of PyYAML raise more than they document (``RecursionError`` on
deep nesting, ``ValueError`` on long whole numbers, ``KeyError`` and ``AttributeError`` on odd tags), keep
the last of two equal keys without a word, and return values that later code cannot store. Here all of it
is a ``ParseError``, which is a ``ValueError``: code that expects one from ``json.loads`` need not change.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import yaml

MAX_DEPTH = 100
"""Lists and objects inside one another; recursive code that handles the values later stays safe."""
MAX_DIGITS = 300
"""Digits of a whole number; what is longer does not fit into a float either."""
MAX_YAML_CHARACTERS = 200_000
"""PyYAML reads about 100 kB a second; the recipes that ship have 1 to 3 kB."""
MAX_YAML_VALUES = 20_000
"""Of a YAML text with its aliases written out: nine lines of aliases can stand for a billion values."""


class ParseError(ValueError):
    """A text that is not JSON or YAML, or holds what no caller can use.

    ``reason`` is a clause without a full stop; ``line`` and ``column`` count from 1, where they are known.
    """

    def __init__(self, reason: str, *, line: int | None = None, column: int | None = None) -> None:
        numbers = {"line": line, "character": column}
        at = ", ".join(f"{name} {number}" for name, number in numbers.items() if number is not None)
        super().__init__(f"{reason} at {at}" if at else reason)
        self.reason = reason
        self.line = line
        self.column = column


def load_json(text: str | bytes) -> Any:
    """The value of a JSON text; bytes are UTF-8, with or without a byte order mark.

    Raises:
        ParseError: it is malformed, an object has a key twice, a whole number has more than ``MAX_DIGITS``
            digits, or it is nested deeper than ``MAX_DEPTH``.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        value = json.loads(text, object_pairs_hook=_object, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise ParseError(error.msg, line=error.lineno, column=error.colno) from error
    except UnicodeDecodeError as error:
        raise ParseError(f"it is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except RecursionError as error:
        raise _too_deep() from error
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_nesting(value, most=None)
    return value


def load_yaml(text: str) -> Any:
    """The value of a YAML text: only what JSON knows, dates as text.

    Raises:
        ParseError: it is malformed or longer than ``MAX_YAML_CHARACTERS``, a mapping has a key twice or one
            that is not text, a whole number is too long, there are too many values or levels, or half a
            character.
    """
    if len(text) > MAX_YAML_CHARACTERS:
        raise ParseError(f"it has {len(text):,} characters; {MAX_YAML_CHARACTERS:,} are read at most")
    try:
        value = yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - derived from SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = " ".join(filter(None, (error.context, error.problem)))
        raise ParseError(
            reason, line=mark.line + 1 if mark else None, column=mark.column + 1 if mark else None
        ) from error
    except RecursionError as error:
        raise _too_deep() from error
    except ParseError:
        raise
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ParseError(" ".join(str(error).split()) or type(error).__name__) from error
    _check_nesting(value, most=MAX_YAML_VALUES)
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ParseError("it holds half a character (a lone surrogate), which no file can store") from error
    return value


def whole_number(text: str) -> int | None:
    """The number that ASCII digits write, up to 18 of them; ``None`` for any other text.

    ``str.isdigit`` also accepts superscripts, which ``int`` does not read.
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _repeated([key for key, _ in pairs])
    return value


def _repeated(keys: Sequence[str]) -> ParseError:
    key, times = Counter(keys).most_common(1)[0]
    return ParseError(f"the key {key!r} is given {times} times in one object, so its value is ambiguous")


def _integer(digits: str) -> int:
    _check_digits(digits)
    return int(digits)


def _check_digits(digits: str) -> None:
    if len(digits) > MAX_DIGITS:
        raise ParseError(f"a whole number has {len(digits):,} digits; at most {MAX_DIGITS} are read")


def _too_deep() -> ParseError:
    return ParseError(f"lists and objects are nested more than {MAX_DEPTH} deep")


def _check_nesting(value: Any, *, most: int | None) -> None:
    """Refuse a value that is nested too deep, or has more than ``most`` parts counted as a tree.

    Level by level and not by recursion. A value that contains itself is endlessly deep.
    """
    level, depth, count = [value], 0, 0
    while level:
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below.extend(each.values())
            elif isinstance(each, list):
                below.extend(each)
            if most is not None and count + len(below) > most:
                raise ParseError(f"it expands to more than {most:,} values")
        level, depth, count = below, depth + 1, count + len(below)
        if depth > MAX_DEPTH + 1:
            raise _too_deep()


class _PlainLoader(yaml.SafeLoader):
    """Reads mappings, lists, text, numbers, booleans and null, and nothing else."""

    # Without the resolver a date stays the text it is: no setting is a date, and JSON has none.
    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML declares it
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys are text, each there once; merged keys (``<<``) may be given again."""
        pairs = node.value if node.id == "mapping" else ()  # anything may carry the tag
        keys = [key for key, _ in pairs if isinstance(key, yaml.ScalarNode)]
        written = [key.value for key in keys if key.tag != "tag:yaml.org,2002:merge"]
        if len(set(written)) != len(written):
            raise _repeated(written)
        mapping = super().construct_mapping(node, deep=deep)
        for key in mapping:
            if not isinstance(key, str):
                raise ParseError(f"the key {key!r} is not text; put it in quotes")
        return mapping


def _construct_integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    # Hexadecimal numbers are read at any length, and fail only when they are printed.
    _check_digits(node.value)
    return int(loader.construct_yaml_int(node))


def _refuse_tag(_: yaml.SafeLoader, node: yaml.Node) -> Any:
    raise ParseError(
        f"the tag {node.tag!r} is not read, only plain values are", line=node.start_mark.line + 1
    )


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _construct_integer)
for _kind in ("binary", "timestamp", "omap", "pairs", "set"):
    _PlainLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _refuse_tag)
