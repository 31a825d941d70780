"""Command lines in forked children, and what must hold for every one of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.cells import cell_len

COLUMNS, LINES = 80, 24
SECONDS, MEMORY = 10.0, 1 << 30
WALL = 40.0
"""Seconds after which a child is killed: more than ``SECONDS``, because the machine may do other work."""
REFUSED = 2
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
QUIET = {
    "COLUMNS": str(COLUMNS),
    "TERM": "dumb",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONWARNINGS": "ignore",
    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
}


@dataclass(frozen=True)
class Outcome:
    """How a command line ended. ``memory``: bytes over what the process began with."""

    code: int
    hung: bool
    seconds: float
    cpu_s: float
    memory: int
    out: str
    err: str
    error: dict[str, str] | None = None

    def faults(self) -> list[str]:
        """What is wrong with the way it ended; each begins with the kind of fault."""
        return [*self._broken(), *self._costly(), *self._unreadable()]

    def _broken(self) -> list[str]:
        said = self.out + self.err
        if self.error is not None:
            return ["error {type} at {where}: {text}".format_map(self.error)]
        if "internal error" in said or "Traceback (most recent call last)" in said:
            return [f"traceback: {said[-300:]}"]
        if self.code not in (0, REFUSED) and not self.hung:
            return [f"exit code {self.code}: {said[-300:]}"]
        return []

    def _costly(self) -> list[str]:
        faults = []
        if self.hung or self.cpu_s > SECONDS:
            faults.append(f"time: {self.cpu_s:.1f} s of a processor, {self.seconds:.1f} s")
        if self.memory > MEMORY:
            faults.append(f"memory: {self.memory / 2**20:.0f} MiB")
        return faults

    def _unreadable(self) -> list[str]:
        faults = []
        control = CONTROL.search(self.out + self.err)
        if control:
            faults.append(f"control character {control.group()!r} was printed")
        lines = self.err.splitlines()
        if self.code == REFUSED and len(lines) > LINES:
            faults.append(f"screen: a refusal of {len(lines)} lines")
        wide = [line for line in lines if cell_len(line) > COLUMNS]
        if self.code == REFUSED and wide:
            rows = sum(-(-cell_len(line) // COLUMNS) for line in lines)
            if rows > LINES:
                faults.append(f"screen: a refusal of {rows} rows")
        return faults


class Sandbox:
    """A zygote that runs command lines in forked children."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env=os.environ | QUIET,
        )

    def run(self, folder: Path, argv: Sequence[str], *, warm: bool = False) -> Outcome:
        """Run a command line in a folder; ``warm``: what it imports is kept for later ones."""
        answer = self._ask(cwd=str(folder), argv=list(argv), warm=warm, wall_s=WALL)
        return Outcome(**answer)

    def call(self, function: str, *arguments: str) -> None:
        """Call ``module:function`` in a child.

        Raises:
            RuntimeError: it failed.
        """
        answer = self._ask(**{"cwd": "/", "call": function, "with": list(arguments), "wall_s": 300})
        if answer["code"] != 0:
            raise RuntimeError(f"{function}: {answer['out']}{answer['err']}")

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the zygote."""
        self._process.communicate(timeout=30)
