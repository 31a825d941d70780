"""Renders chat templates in a process of its own: a template is a program, and it comes with a checkpoint.

Run as a script; it imports Jinja and the standard library only. One JSON object a line comes in, one goes
out. The environment is that of ``transformers.utils.chat_template_utils``.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY = 1 << 30
"""Bytes of address space that a template may take, in addition to what its messages need."""
PER_BYTE = 64
"""Bytes of memory granted for each byte of a request."""
SHOWN = 200
"""Characters shown of an error."""


class GenerationTag(Extension):
    """``{% generation %}`` marks what the assistant wrote; the text is the same without it."""

    tags = {"generation"}  # noqa: RUF012 - declared so by Jinja

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The statements inside the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def main() -> None:
    """Answer requests until there are none."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin.buffer:
        reply = _answer(json.loads(line), len(line))
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


def _answer(request: dict[str, Any], size: int) -> dict[str, Any]:
    _limit(size, request["seconds"])
    try:
        return {"text": _render(request)}
    except TemplateError as error:
        return {"refused": _shown(error)}
    except MemoryError:
        return {"failed": f"it takes more than {(MEMORY + PER_BYTE * size) >> 20} MiB of memory"}
    except BaseException as error:  # noqa: BLE001 - whatever a stranger's program raises is its refusal
        return {"failed": f"{type(error).__name__}: {_shown(error)}"}


def _render(request: dict[str, Any]) -> str:
    day = datetime.fromisoformat(request["date"])
    written, pieces = 0, []
    template = _environment().from_string(request["template"])
    for piece in template.generate(**request["context"], strftime_now=day.strftime):
        written += len(piece)
        if written > request["characters"]:
            raise OverflowError(f"it writes more than {request['characters']:,} characters")
        pieces.append(piece)
    return "".join(pieces)


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(
        value: object,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    return environment


def _limit(size: int, seconds: float) -> None:
    """Bound memory and processor time where the system can; who asks bounds the time on the wall."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        def soft(kind: int, value: int) -> None:
            _, hard = resource.getrlimit(kind)
            resource.setrlimit(kind, (value if hard < 0 else min(value, hard), hard))

        soft(resource.RLIMIT_CORE, 0)
        soft(resource.RLIMIT_AS, MEMORY + PER_BYTE * size)
        soft(resource.RLIMIT_CPU, int(time.process_time() + seconds) + 2)


def _shown(error: BaseException) -> str:
    """An error on one line, without what a terminal would obey."""
    text = " ".join("".join(char if char.isprintable() else " " for char in str(error)).split())
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


if __name__ == "__main__":
    main()
