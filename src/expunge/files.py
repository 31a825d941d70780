"""Writing so that nothing is lost: a temporary name, one rename at the end, never over another run."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from expunge.errors import OutputError

FREE_SPACE_FIX = "Free some space or choose another folder with --output."


@contextmanager
def writing(target: Path) -> Iterator[Path]:
    """A temporary path beside ``target`` that becomes ``target`` when the block ends well.

    The temporary path does not exist yet: the block creates a file or a folder there. An error
    inside the block removes it and leaves whatever ``target`` was as it was.

    Raises:
        OutputError: the folder cannot be written, or the disk is full.
    """
    scratch: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        yield scratch / target.name
        _replace(scratch / target.name, target)
    except OSError as error:
        raise OutputError(
            f"cannot write {target}", why=f"{error.strerror or error}.", fix=FREE_SPACE_FIX
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _replace(source: Path, target: Path) -> None:
    if target.is_dir():
        aside = source.parent / "replaced"
        target.rename(aside)
    source.replace(target)


def write_json(target: Path, value: Any) -> None:
    """Write ``value`` as readable JSON, whole or not at all."""
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n")


def write_text(target: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with writing(target) as path:
        path.write_text(text, encoding="utf-8")


def write_with(target: Path, save: Callable[[Path], object]) -> None:
    """Let ``save`` write a file or folder, whole or not at all."""
    with writing(target) as path:
        save(path)


def refuse_existing(target: Path, *, overwrite: bool) -> None:
    """Refuse to write over an earlier result unless told to.

    Raises:
        OutputError: ``target`` holds something and ``overwrite`` is false.
    """
    occupied = target.is_file() or (target.is_dir() and any(target.iterdir()))
    if occupied and not overwrite:
        raise OutputError(
            f"{target} already exists",
            why="a run never writes over another one unless told to.",
            fix="Choose another --output, or pass --overwrite to replace it.",
        )
