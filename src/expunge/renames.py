"""Renames that decide at the last moment: onto nothing, or in exchange for what is there.

Linux does both in one system call, ``renameat2``. Elsewhere, and where a file system lacks its flags,
a hard link or the rules of ``rename`` for folders do the first, and two renames with a way back the second.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

AT_FDCWD = -100
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}
"""What a system or a file system says that does not know the flags of ``renameat2``, or no hard links."""
OCCUPIED = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR}
"""What ``rename`` says of a target that is there."""
ASIDE = ".replaced"
"""Ends the name of what is replaced while several renames do it."""


def rename_onto_nothing(source: Path, target: Path) -> None:
    """Rename a file or a folder where nothing is; of folders, an empty one may be there.

    Raises:
        FileExistsError: something is there.
        OSError: it cannot be renamed.
    """
    if source.is_dir() and not source.is_symlink():  # rename() itself refuses all but an empty folder
        try:
            source.rename(target)
        except OSError as error:
            if error.errno in OCCUPIED and os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
            raise
    elif not _renameat2(source, target, RENAME_NOREPLACE):
        _link(source, target)


def exchange(source: Path, target: Path) -> None:
    """Let two files or folders change places. What was ``target`` is at ``source`` afterwards.

    Where that takes several renames, an error between them puts ``target`` back; after a kill it is
    next to ``source``, under its name with ``ASIDE``.

    Raises:
        OSError: they cannot be renamed; both are where they were.
    """
    if _renameat2(source, target, RENAME_EXCHANGE):
        return
    aside = source.with_name(source.name + ASIDE)
    try:
        target.rename(aside)
        source.rename(target)
    except BaseException:
        if os.path.lexists(aside) and not os.path.lexists(target):
            aside.rename(target)
        raise
    aside.rename(source)


def _link(source: Path, target: Path) -> None:
    """A second name and the first one removed: a kill between leaves both names of one whole file."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        # Without hard links: take the name first, then replace what holds it.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            source.replace(target)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return
    source.unlink()


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """Whether the system did it.

    Raises:
        OSError: it knows how, and cannot.
    """
    call = _system_call()
    if call is None:
        return False
    if call(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))


@cache
def _system_call() -> Callable[..., int] | None:
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # no such function, or no such library (Windows)
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    call.restype = ctypes.c_int
    typed: Callable[..., int] = call
    return typed
