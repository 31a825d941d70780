"""Writing so that nothing is lost: a temporary name, one rename at the end, never over another run."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from expunge.errors import OutputError

RECORD = "record.json"
"""What every finished run leaves in its folder."""
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
    except OutputError as error:  # of something inside, under a name its user never gave
        raise OutputError(f"cannot write {target}", why=error.why, fix=error.fix) from error
    except OSError as error:
        raise OutputError(
            f"cannot write {target}", why=f"{error.strerror or error}.", fix=FREE_SPACE_FIX
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _replace(source: Path, target: Path) -> None:
    if not target.is_dir():
        source.replace(target)
        return
    aside = source.parent / "replaced"
    target.rename(aside)
    try:
        source.replace(target)
    except OSError:
        aside.rename(target)
        raise


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
    """Refuse, before any work is done, a folder that could not be written at the end.

    Raises:
        OutputError: ``target`` holds something and ``overwrite`` is false, ``overwrite`` is true and it
            holds something no run wrote, or nothing can be written there.
    """
    require_writable(target)
    if not (target.is_file() or (target.is_dir() and any(target.iterdir()))):
        return
    if not overwrite:
        raise OutputError(
            f"{target} already exists",
            why="a run never writes over another one unless told to.",
            fix="Choose another --output, or pass --overwrite to replace it.",
        )
    if not (target / RECORD).is_file():
        raise OutputError(
            f"{target} is not an earlier result",
            why=f"--overwrite replaces a whole folder, and this one has no {RECORD}: no run wrote it.",
            fix="Choose another --output, or remove it yourself.",
        )


def claim_file(target: Path, *, source: str, overwrite: bool) -> None:
    """Refuse, before any work is done, a file that could not be written at the end, or ``source`` itself.

    Raises:
        OutputError: ``target`` is there and ``overwrite`` is false, or it is what is read, or a folder.
    """
    require_writable(target)
    if target.exists() and (target.is_dir() or not overwrite):
        raise OutputError(
            f"{target} already exists",
            why="nothing is written over unless told to.",
            fix="Choose another --output, or pass --overwrite to replace the file.",
        )
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise OutputError(
            f"{target} is the file that is read",
            why="what was given is never written over.",
            fix="Choose another --output.",
        )


def require_writable(target: Path) -> None:
    """Refuse a path that nothing can be written to; nothing is created to find out.

    Raises:
        OutputError: a file stands where a folder would have to be, or the folder may not be written to.
    """
    folder = next(parent for parent in target.absolute().parents if os.path.lexists(parent))
    if not folder.is_dir():
        why = f"{folder} is not a folder."
    elif not os.access(folder, os.W_OK | os.X_OK):
        why = f"you may not write to {folder}."
    else:
        return
    raise OutputError(f"cannot write {target}", why=why, fix="Choose another folder with --output.")
