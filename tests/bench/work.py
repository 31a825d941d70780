"""Work for other processes, in a module that is quick to import there."""

from __future__ import annotations

import time
from pathlib import Path

from expunge.errors import DataError


def refuse() -> None:
    raise DataError("the forget set", why="it is empty.", fix="Give it an example.")


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def leave_a_note(path: Path) -> None:
    path.write_text("done")
