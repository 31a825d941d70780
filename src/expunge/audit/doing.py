"""What each worker of an audit is at, in files that its parent may look at while they work."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from expunge.files import refuse_link

OWN_NAMES = re.compile(r"\d+\.(txt|new)")
"""What the files of workers are called."""


@dataclass(frozen=True, slots=True)
class Doing:
    """One small file for each worker in ``folder``."""

    folder: Path

    def tell(self, what: str) -> None:
        """Say what this process is at now."""
        path = self.folder / f"{os.getpid()}.txt"
        scratch = path.with_suffix(".new")
        scratch.write_text(what, encoding="utf-8")
        scratch.replace(path)

    def told(self) -> str:
        """What all of them last said."""
        return "; ".join(path.read_text(encoding="utf-8") for path in sorted(self.folder.glob("*.txt")))


@contextmanager
def doing(folder: Path) -> Iterator[Doing]:
    """The workers' files, in a folder that is there inside the block only."""
    _clear(folder)  # of an audit that was killed
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield Doing(folder)
    finally:
        _clear(folder)


def _clear(folder: Path) -> None:
    """Remove the workers' files, and the folder if it holds nothing else."""
    refuse_link(folder)
    for path in folder.glob("*"):
        if OWN_NAMES.fullmatch(path.name):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # not there, or it holds what no audit wrote
        folder.rmdir()
