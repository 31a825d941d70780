"""What each worker of an audit is at, in files that its parent may look at while they work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


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
    shutil.rmtree(folder, ignore_errors=True)  # of an audit that was killed
    folder.mkdir(parents=True)
    try:
        yield Doing(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
