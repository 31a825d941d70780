"""A process that has imported everything and forks a child for each command line it is sent.

A child may hang, panic, be killed or eat memory: only the child ends. Requests and answers are JSON, one a
line. The zygote itself never starts a thread, so that its children begin in a known state.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

from expunge.cli import main as cli

ROOM = 3 << 30
"""Bytes of address space that a child may take beyond the zygote's: a bound that protects the machine."""
LARGEST_FILE = 1 << 30
"""Bytes of the largest file that a child may write."""
DIED = 70
"""The exit code of a child that ended with anything but a return or SystemExit."""


def serve(requests: TextIO, answers: TextIO) -> None:
    """Carry out requests until the other side closes the pipe."""
    cli.quiet_libraries()
    cli._command()
    for line in requests:
        request = json.loads(line)
        answer = carry_out(request)
        if request.get("warm"):
            import_all(answer.pop("modules", []))
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def carry_out(request: dict[str, Any]) -> dict[str, Any]:
    """Fork a child for a request and say how it ended: exit code, signal, cost, both streams."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        streams = Path(scratch)
        begun, base = time.monotonic(), resident()
        pid = os.fork()
        if pid == 0:
            child(request, streams)
        status, usage, hung = waited(pid, request["wall_s"])
        notes = streams / "notes.json"
        return {
            "code": os.waitstatus_to_exitcode(status),
            "hung": hung,
            "seconds": time.monotonic() - begun,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "memory": max(0, usage.ru_maxrss * 1024 - base),
            "out": (streams / "out").read_text(errors="replace"),
            "err": (streams / "err").read_text(errors="replace"),
            **(json.loads(notes.read_text()) if notes.exists() else {}),
        }


def waited(pid: int, wall_s: float) -> tuple[int, resource.struct_rusage, bool]:
    """The child's status and what it used; one that does not end is killed with its own children."""
    deadline = time.monotonic() + wall_s
    pause, hung = 0.001, False
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return status, usage, hung
        if time.monotonic() > deadline:
            hung = True
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)


def resident() -> int:
    """Bytes of this process that are in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def child(request: dict[str, Any], streams: Path) -> NoReturn:
    """Carry a request out in this process, which ends with it."""
    os.setsid()
    notes: dict[str, Any] = {}
    try:
        code = in_child(request, streams, notes)
    except BaseException as error:  # noqa: BLE001 - a panic of a Rust library is a BaseException, too
        notes.setdefault("error", described(error))
        traceback.print_exc()
        code = DIED
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    (streams / "notes.json").write_text(json.dumps(notes))
    os._exit(code)


def in_child(request: dict[str, Any], streams: Path, notes: dict[str, Any]) -> int:
    sys.stdout = redirected(1, streams / "out", errors="strict")
    sys.stderr = redirected(2, streams / "err", errors="backslashreplace")
    os.chdir(request["cwd"])
    limit(request)
    if "call" in request:
        module, _, name = request["call"].partition(":")
        cast("Callable[..., object]", getattr(importlib.import_module(module), name))(*request["with"])
        return 0
    before = cli._report_bug

    def report_bug(error: Exception, *, debug: bool) -> None:
        notes["error"] = described(error)
        before(error, debug=debug)

    cli._report_bug = report_bug
    code = cli.main(request["argv"])
    if request.get("warm"):
        notes["modules"] = [name for name in sys.modules if not name.startswith("__")]
    return code


def redirected(number: int, path: Path, *, errors: str) -> TextIO:
    """A file in place of a standard stream, for this process and for the libraries under it."""
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    return io.TextIOWrapper(os.fdopen(number, "wb", buffering=0), "utf-8", errors, write_through=True)


def limit(request: dict[str, Any]) -> None:
    """Bounds on processor time, address space and the size of a file."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    space = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_CPU, (int(request["wall_s"]), int(request["wall_s"]) + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def described(error: BaseException) -> dict[str, str]:
    """What kind of error it is, and the innermost line of the package that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/expunge/" in frame.filename] or frames
    where = f"{ours[-1].filename.split('/expunge/')[-1]}:{ours[-1].lineno}" if ours else "?"
    return {"type": type(error).__name__, "where": where, "text": str(error)[:300]}


def import_all(names: list[str]) -> None:
    """Import here what a child imported, so that later children need not."""
    for name in names:
        if name not in sys.modules:
            with suppress(BaseException):
                importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a child's collector would copy every page that holds an object


if __name__ == "__main__":
    sys.setrecursionlimit(1000)
    serve(sys.stdin, sys.stdout)
