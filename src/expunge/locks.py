"""Locks that the system releases when a process ends in any way, so that dead runs are recognised."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":  # there nothing is known to be dead, so nothing is removed
    import fcntl

NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


class Held(Exception):  # noqa: N818 - a state, which the caller turns into a refusal
    """Another process holds the lock."""


def lock_folder(folder: Path) -> int | None:
    """Lock a folder itself; the descriptor for ``unlock``, or None where folders cannot be locked.

    Raises:
        Held: another process holds it.
        OSError: there is no such folder, or it is a symbolic link.
    """
    if sys.platform == "win32":
        return None
    descriptor = os.open(folder, os.O_RDONLY | NO_FOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise Held from error
        return None
    if not _names(folder, descriptor):  # another process took it for dead before it was locked
        os.close(descriptor)
        raise Held
    return descriptor


def unlock(descriptor: int | None) -> None:
    """Let go; for forked children, which share the lock, too."""
    if descriptor is not None and sys.platform != "win32":
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


@contextmanager
def lock_file(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a file that is there only while it is held; ``shared`` allows others that share.

    Raises:
        Held: another process holds it.
        OSError: it cannot be made, or is a symbolic link.
    """
    if sys.platform == "win32":
        yield
        return
    descriptor = _taken(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    try:
        yield
    finally:
        with suppress(OSError):  # others still share it: the last one removes the file
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        unlock(descriptor)


def _taken(path: Path, how: int) -> int:
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | NO_FOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise Held from error
        except OSError:  # a file system without locks: nothing is known of others
            return descriptor
        if _names(path, descriptor):  # not removed by its last holder meanwhile
            return descriptor
        os.close(descriptor)


def _names(path: Path, descriptor: int) -> bool:
    """Whether ``path`` still names what is open."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
