"""Temporary folders of runs: locked while their run lives, removed by the next one when it was killed."""

from __future__ import annotations

import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from expunge.locks import Held, lock_folder, unlock
from expunge.renames import ASIDE, rename_onto_nothing

OWN = ".expunge-"
"""Part of the name of every folder and lock that a run creates next to its output, and only of these."""
LEFTOVER = re.compile(rf"\.(?P<name>.+){re.escape(OWN)}[a-z0-9_]{{8}}")


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """A locked folder next to ``target``, removed at the end."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}{OWN}", dir=target.parent))
        try:
            lock = lock_folder(folder)
        except (Held, FileNotFoundError):  # another run took it for a leftover before it was locked
            continue
        break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        unlock(lock)


@contextmanager
def temporary_folder(name: str) -> Iterator[Path]:
    """A folder among the system's temporary files; what killed runs left of that ``name`` goes."""
    target = Path(tempfile.gettempdir()) / name
    remove_leftovers(target)
    with scratch_folder(target) as folder:
        yield folder


def has_leftovers(target: Path) -> bool:
    """Whether a run that was killed, or still works, left anything next to ``target``."""
    named = re.compile(rf"\.?{re.escape(target.name)}\.(partial|expunge-).*")
    try:
        return any(named.fullmatch(each.name) for each in target.parent.iterdir())
    except OSError:
        return False


def remove_leftovers(target: Path, *, beside: Path | None = None) -> None:
    """Remove what killed runs left next to ``target``, and put back or complete what they were replacing.

    Folders of active runs are locked, and left alone.
    """
    try:
        folders = [each for each in target.parent.iterdir() if each.name.startswith(f".{target.name}{OWN}")]
    except FileNotFoundError:
        return
    for folder in folders:
        if not folder.is_dir() or folder.is_symlink():
            continue
        try:
            lock = lock_folder(folder)
        except (Held, OSError):  # of an active run, of another user, or just removed
            continue
        if lock is None:  # whether it is in use is unknown
            continue
        try:
            _recover(folder, target, beside)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            unlock(lock)


def remove_leftovers_in(folder: Path) -> None:
    """Remove what killed runs left next to anything in ``folder``; see ``remove_leftovers``."""
    if folder.is_dir():
        matches = [LEFTOVER.fullmatch(path.name) for path in folder.iterdir()]
        for name in {match["name"] for match in matches if match is not None}:
            remove_leftovers(folder / name)


def set_modes(folder: Path, *, private: bool) -> None:
    """Give everything in ``folder`` the mode of a new file, as the umask has it: some libraries do not."""
    file_mode, folder_mode = 0o600, 0o700
    if not private:
        probe = folder / ".mode"
        probe.touch()
        file_mode = stat.S_IMODE(probe.stat().st_mode)
        folder_mode = file_mode | (file_mode & 0o444) >> 2
        probe.unlink()
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(folder_mode if path.is_dir() else file_mode)


def _recover(folder: Path, target: Path, beside: Path | None) -> None:
    """Put back what a killed run had moved aside; complete a pair of which one file is in its place."""
    with suppress(FileExistsError, FileNotFoundError):
        rename_onto_nothing(folder / (target.name + ASIDE), target)
    if beside is not None and not (folder / target.name).exists() and target.is_file():
        with suppress(FileNotFoundError):
            (folder / beside.name).replace(beside)
