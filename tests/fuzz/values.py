"""Values that files should not hold, and how JSON, YAML, rows and bytes come to hold them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]

DEEP = 20_000
"""Nested brackets: more than any parser's stack holds, in few bytes."""
LONG = 200_000
"""Characters of a long string."""
ESC = "\x1b[31mred\x1b[0m\x07\x9b31m"

RAW = (
    *"null true false 0 -1 1 2 7 0.5 -0.0 1e308 1e999 -1e999 1e-999 NaN Infinity -Infinity".split(),
    *(str(2**31), str(2**63), str(2**64), "1" + "0" * 400, "9" * 5000),
    *(json.dumps(word) for word in ("", " ", *"a 1 nan None float32 int8 ../x /etc/passwd".split())),
    *(json.dumps(word) for word in ("²", "\x00", "\ud800", ESC, "2026-01-01", "{{ 7 * 7 }}", "x" * LONG)),
    *('[]|{}|[null]|[[]]|[{}]|{"": 1}|{"a": {"b": []}}|[1, "a", null]|[0, 0]|[-1]'.split("|")),
    *("[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP, f"[{'0,' * 9999}0]"),
)
"""JSON as text: what ``json.dumps`` would not write is among it."""
WORDS = (
    *(
        "",
        " ",
        "\x00",
        ESC,
        "\n",
        "\r\n",
        "\ud800",
        "\u202e",
        "\ufeff",
        "\u2028",
        "\udcff",
        "é" * 300,
        "x" * LONG,
    ),
    *"a 0 -1 ² 1e999 nan None true ../x x/../../y / . .. ~ a=b a:b a,b <s> </s> <think> %s%n".split(),
    *("{{ x }}", "{% for %}", "[bold]", "[/]", "\\", "'", '"'),
)


class Raw:
    """A place in a document that holds some text as it is."""

    def __init__(self, text: str) -> None:
        self.text = text


def dumps(value: Any) -> str:
    """JSON with what ``Raw`` places hold written as it is."""
    raws: list[str] = []

    def default(held: object) -> str:
        assert isinstance(held, Raw)
        raws.append(held.text)
        return f"@raw{len(raws) - 1}@"

    text = json.dumps(value, default=default)
    for number, raw in enumerate(raws):
        text = text.replace(f'"@raw{number}@"', raw)
    return text


def paths(value: Any, *, most: int = 6) -> list[tuple[Any, ...]]:
    """Where values stand in a document; of a container with many, some of the first and the last."""
    found: list[tuple[Any, ...]] = [()]
    if isinstance(value, dict | list):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if len(keys) > 40:
            keys = [*keys[:most], keys[-1]]
        for key in keys:
            found += [(key, *path) for path in paths(value[key], most=most)]
    return found


@st.composite
def broken_value(draw: Draw, value: Any) -> Any:
    """A document with one or two things wrong in it."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
        path = draw(st.sampled_from(paths(value)))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                return Raw(draw(st.sampled_from(RAW)))
            continue
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        change(draw, holder, path[-1])
    return value


def change(draw: Draw, holder: Any, key: Any) -> None:
    """Change, remove, rename, repeat or wrap one value."""
    how = draw(st.sampled_from(["replace"] * 6 + ["remove", "rename", "wrap", "repeat", "add"]))
    held = holder[key]
    if how == "replace" or isinstance(held, Raw):
        holder[key] = Raw(draw(st.sampled_from(RAW)))
    elif how == "wrap":
        holder[key] = draw(st.sampled_from([[held], {"value": held}, [held, held], str(held)[:1000]]))
    elif how == "repeat":
        holder[key] = Raw(f"{dumps(held)}, {json.dumps(str(key))}: {draw(st.sampled_from(RAW[:30]))}")
        if isinstance(holder, list):
            holder[key] = [held] * 3
    elif how == "add" and isinstance(held, dict):
        held[draw(st.sampled_from(WORDS[:30]))] = Raw(draw(st.sampled_from(RAW)))
    else:
        del holder[key]
        if how == "rename" and isinstance(holder, dict):
            holder[draw(st.sampled_from(WORDS[:40]))] = held


@st.composite
def broken_bytes(draw: Draw, content: bytes) -> bytes:
    """Bytes that were cut, changed, repeated or decoded as something else."""
    how = draw(
        st.sampled_from(
            ["cut", "flip", "flip", "insert", "insert", "word", "utf-16", "bom", "twice", "empty"]
        )
    )
    place = draw(st.integers(0, max(0, min(len(content), 4000) - 1)))
    if how == "cut":
        return content[:place]
    if how == "flip":
        changed = bytearray(content)
        for _ in range(draw(st.integers(1, 4))):
            if changed:
                changed[draw(st.integers(0, min(len(changed), 4000) - 1))] ^= draw(st.integers(1, 255))
        return bytes(changed)
    if how == "insert":
        odd = draw(
            st.sampled_from(
                [b"\xff\xfe", b"\x00", b"\xed\xa0\x80", b"\x1b[2J", b"\r", b"\xc3(", b"\x9b", b"\\"]
            )
        )
        return content[:place] + odd + content[place:]
    if how == "word":
        return (
            content[:place]
            + draw(st.sampled_from([b"\xff" * 8, b"\x00" * 8, b"\x7f" * 8]))
            + content[place + 8 :]
        )
    return {
        "utf-16": recoded(content),
        "bom": b"\xef\xbb\xbf" + content,
        "twice": content * 2,
        "empty": b"",
    }[how]


def recoded(content: bytes) -> bytes:
    return content.decode("utf-8", "replace").encode("utf-16")


@st.composite
def broken_json(draw: Draw, content: bytes) -> bytes:
    """A JSON file with something wrong: in its values most of the time, or in its bytes."""
    if draw(st.integers(0, 4)) == 0:
        return draw(broken_bytes(content))
    return dumps(draw(broken_value(json.loads(content)))).encode("utf-8", "surrogatepass")


@st.composite
def broken_lines(draw: Draw, content: bytes) -> bytes:
    """A file of JSON lines with something wrong in one of them."""
    if draw(st.integers(0, 4)) == 0:
        return draw(broken_bytes(content))
    rows = content.splitlines()
    number = draw(st.integers(0, len(rows) - 1))
    rows[number] = draw(broken_json(rows[number]))
    ending = draw(st.sampled_from([b"\n"] * 8 + [b"\r\n", b"\r", b"\n\n", b" "]))
    return ending.join(rows) + ending


@st.composite
def broken_csv(draw: Draw, content: bytes) -> bytes:
    """A CSV file with something wrong: cells, header, quotes, bytes."""
    if draw(st.integers(0, 3)) == 0:
        return draw(broken_bytes(content))
    rows = [line.split(b",") for line in content.splitlines()]
    number = draw(st.integers(0, len(rows) - 1))
    column = draw(st.integers(0, len(rows[number]) - 1))
    word = draw(st.sampled_from((*WORDS, *RAW))).encode("utf-8", "surrogatepass")
    how = draw(st.sampled_from(["replace", "replace", "add", "remove", "header", "quote", "huge"]))
    if how == "replace":
        rows[number][column] = word
    elif how == "add":
        rows[number].append(word)
    elif how == "remove":
        del rows[number][column]
    elif how == "header":
        rows[0][column % len(rows[0])] = draw(st.sampled_from([rows[0][0], b"", b"\xef\xbb\xbfid", word]))
    elif how == "quote":
        rows[number][column] = b'"' + rows[number][column]
    else:
        rows[number][column] = b"x" * 300_000
    return b"\n".join(b",".join(row) for row in rows) + b"\n"


TEMPLATES = (
    "{% for x in range(10 ** 9) %}a{% endfor %}",
    "{{ 'a' * 10 ** 10 }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ messages[99].content }}",
    "{{ raise_exception('\x1b[31mno') }}",
    "{{ messages.__class__.__mro__ }}",
    "{{ 1 / 0 }}",
    "{{ messages + 1 }}",
    "{% include 'x' %}",
    "{{ strftime_now(1) }}",
    "{{ x | nosuchfilter }}",
    "{{ [1] | sum(attribute='a') }}",
    "{% if %}",
    "{{ '\ud800' }}",
    "{% set a = namespace() %}{{ a.b.c }}",
)


@st.composite
def broken_template(draw: Draw, content: bytes) -> bytes:
    """A chat template with a fault, a loop without an end, or broken bytes."""
    if draw(st.booleans()):
        return draw(broken_bytes(content))
    odd = draw(st.sampled_from(TEMPLATES)).encode("utf-8", "surrogatepass")
    return draw(st.sampled_from([odd, odd + content, content + odd]))
