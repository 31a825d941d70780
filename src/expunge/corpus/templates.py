"""Chat templates rendered within bounds of time, memory and size, all of them on the same day."""

from __future__ import annotations

import atexit
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

from expunge.errors import DataError

TEMPLATE_DATE = date(2024, 7, 26)
"""What ``strftime_now`` of a template says, whatever the day: Llama 3's template writes it by default."""

SECONDS = 5.0
"""How long one rendering may take."""
BYTES_PER_SECOND = 10_000_000
"""How fast messages are read at least, which gives long ones more time."""
CHARACTERS = 1_000_000
"""Characters a template may write in addition to ``TIMES`` those of its messages."""
TIMES = 16
STARTING = 60.0
"""Seconds for the process that renders to start."""

Messages = Sequence[Mapping[str, str]]


class TemplateFault(Exception):  # noqa: N818 - turned into a refusal that names the example
    """Why a template could not be rendered; ``by_template`` where the template itself raised it."""

    def __init__(self, why: str, *, by_template: bool = False) -> None:
        super().__init__(why)
        self.by_template = by_template


def render(template: str, messages: Messages, context: Mapping[str, Any]) -> str:
    """What a template writes for ``messages``, given other variables.

    Raises:
        TemplateFault: it refuses them, fails, or passes a bound of time, memory or size.
    """
    held = sum(len(message["content"]) for message in messages)
    request = {
        "template": template,
        "context": {"messages": messages, "tools": None, "documents": None, **context},
        "date": TEMPLATE_DATE.isoformat(),
        "seconds": SECONDS,
        "characters": CHARACTERS + TIMES * held,
    }
    with _LOCK:
        reply = _ask(json.dumps(request, default=str).encode() + b"\n")
    if "refused" in reply:
        raise TemplateFault(reply["refused"], by_template=True)
    if "failed" in reply:
        raise TemplateFault(reply["failed"])
    return str(reply["text"])


class _Worker:
    """The process that renders: asked line by line, ended when it does not answer in time."""

    def __init__(self) -> None:
        script = str(Path(__file__).with_name("template_worker.py"))
        self._process = subprocess.Popen(  # noqa: S603 - this package's own script
            [sys.executable, "-P", "-X", "utf8", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        if self.line(STARTING) != b"ready\n":
            self.end()
            raise DataError(
                "a chat template",
                why="the process that renders it did not start.",
                fix=f"Check that {sys.executable} can run and import jinja2.",
            )

    def write(self, line: bytes) -> None:
        """Send a request; a process that has died says nothing to it."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.write(line)
                self._process.stdin.flush()

    def line(self, seconds: float) -> bytes | None:
        """Its next line; empty when it has ended, ``None`` when there is none in time."""
        try:
            return self._lines.get(timeout=seconds)
        except queue.Empty:
            return None

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def _read(self) -> None:
        with suppress(ValueError, OSError):  # closed by ``end``
            for line in self._process.stdout or ():
                self._lines.put(line)
        self._lines.put(b"")


_LOCK = threading.Lock()
_WORKERS: dict[int, _Worker] = {}
"""By process: a forked one has its parent's worker too, which answers the parent."""


def _ask(line: bytes) -> dict[str, Any]:
    own = os.getpid()
    if own not in _WORKERS:
        _WORKERS[own] = _Worker()
    seconds = SECONDS + len(line) / BYTES_PER_SECOND
    _WORKERS[own].write(line)
    answer = _WORKERS[own].line(seconds)
    if not answer:
        _end()
        raise TemplateFault(
            f"it takes longer than {seconds:.0f} seconds"
            if answer is None
            else "it crashes the interpreter"
        )
    reply: dict[str, Any] = json.loads(answer)
    return reply


@atexit.register
def _end() -> None:
    worker = _WORKERS.pop(os.getpid(), None)
    if worker is not None:
        worker.end()
