"""Writing so that nothing is lost: a temporary name, one rename at the end, never over another run.

A temporary folder is locked while its run lives, so that the next run can tell what a killed one left.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from expunge.errors import ModelError, OutputError, did_you_mean
from expunge.locks import Held, lock_file
from expunge.renames import exchange, rename_onto_nothing
from expunge.scratch import OWN, remove_leftovers, remove_leftovers_in, scratch_folder, set_modes

RECORD = "record.json"
"""What every finished run leaves in its folder."""
TRIES = 20
"""How often the folder of an output is created while others remove it as empty."""
FREE_SPACE_FIX = "Free some space or choose another folder with --output."


MayReplace = Callable[[Path], bool]
"""Whether what is at a path may be replaced."""


class KeptError(OutputError):
    """A finished result cannot take its name; it is kept under another one, which the error tells."""


def anything(_: Path) -> bool:
    """Of a file that the program names itself: whatever was there is replaced."""
    return True


def nothing(_: Path) -> bool:
    """Of an output without ``--overwrite``."""
    return False


def earlier_result(path: Path) -> bool:
    """Of a folder with ``--overwrite``: one that a finished run wrote, or an empty one."""
    if path.is_symlink() or not path.is_dir():
        return False
    return (path / RECORD).is_file() or not any(path.iterdir())


def replaced_by(*, overwrite: bool) -> MayReplace:
    """What the folder of a run may replace."""
    return earlier_result if overwrite else nothing


@contextmanager
def writing(
    target: Path,
    *,
    may_replace: MayReplace = anything,
    private: bool = False,
    beside: Path | None = None,
    after_work: bool = False,
) -> Iterator[Path]:
    """A temporary path next to ``target`` that is renamed to ``target`` if the block succeeds.

    The temporary path does not exist yet: the block creates a file or a folder there. An error
    inside the block removes it and leaves whatever ``target`` was as it was. What is at ``target``
    is asked about when the block has ended, in the same moment as it is replaced; if it may not be,
    the finished work goes under another name. ``private`` makes it readable by its owner only. A file named
    as ``beside``, which the block writes into the folder of the temporary path, goes with it.
    ``after_work`` says that what the block writes was long in the making: then the block is carried out
    whatever has appeared meanwhile, so that nothing is lost.

    Raises:
        KeptError: the finished work cannot take its name, because something is there that may not be
            replaced; it is kept, and the error says where.
        OutputError: something is there before the block, the folder cannot be written, or the disk is full.
    """
    if not after_work:
        _refuse_occupied(target, may_replace)
    try:
        target.parent.mkdir(mode=0o700 if private else 0o777, parents=True, exist_ok=True)
        remove_leftovers(target, beside=beside)
        with scratch_folder(target) as folder:
            yield folder / target.name
            set_modes(folder, private=private)
            _finish(folder / target.name, target, may_replace, beside)
    except KeptError:
        raise
    except OutputError as error:  # of something inside, under a name its user never gave
        raise OutputError(f"cannot write {target}", why=error.why, fix=error.fix) from error
    except OSError as error:
        raise OutputError(
            f"cannot write {target}", why=f"{error.strerror or error}.", fix=FREE_SPACE_FIX
        ) from error


@contextmanager
def claiming(target: Path, *, beside: Path | None = None, shared: bool = False) -> Iterator[None]:
    """Hold ``target`` for a run: no other run writes it, and what a killed one left is settled first.

    Its folder is created; if nothing comes to lie in it, it goes again. ``shared`` allows other runs
    that share.

    Raises:
        OutputError: another run holds it, or nothing can be written there.
    """
    _refuse_unwritable(target)
    with ExitStack() as stack:
        try:
            _take(target, stack, shared=shared)
        except Held as error:
            raise OutputError(
                f"{target} is in use",
                why="another command is writing it.",
                fix="Wait until it has ended, or choose another --output.",
            ) from error
        except OSError as error:
            raise OutputError(
                f"cannot write {target}", why=f"{error.strerror or error}.", fix=FREE_SPACE_FIX
            ) from error
        remove_leftovers(target, beside=beside)
        yield


def _take(target: Path, stack: ExitStack, *, shared: bool) -> None:
    """Create the folder of ``target`` and take its lock; again where another run removed it as empty."""
    lock = target.with_name(f".{target.name}{OWN}lock")
    for last in [*[False] * TRIES, True]:
        try:
            for parent in [each for each in target.absolute().parents if not each.exists()][::-1]:
                with suppress(FileExistsError):  # another run was faster, and may remove it again
                    parent.mkdir()
                stack.callback(_remove_empty, parent)
            stack.enter_context(lock_file(lock, shared=shared))
        except FileNotFoundError:
            if last:
                raise
        else:
            return


def discard(folder: Path) -> None:
    """Remove a folder that a run made for itself; a kill meanwhile leaves all of it or nothing.

    Raises:
        OutputError: it is a symbolic link, or cannot be removed.
    """
    refuse_link(folder)
    try:
        remove_leftovers(folder)
        with scratch_folder(folder) as scratch:
            folder.rename(scratch / "removed")
    except OSError as error:
        raise OutputError(
            f"cannot remove {folder}", why=f"{error.strerror or error}.", fix="Remove it yourself."
        ) from error


def make_private(folder: Path) -> None:
    """Create a folder that only the user can access; an existing one is left as it is."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _refuse_occupied(target: Path, may_replace: MayReplace) -> None:
    """Refuse before the work what would be refused after it."""
    is_empty = target.is_dir() and not target.is_symlink() and not any(target.iterdir())
    if os.path.lexists(target) and not is_empty and not may_replace(target):
        raise OutputError(
            f"{target} already exists",
            why="it is not overwritten.",
            fix="Choose another place, or move it away.",
        )


@contextmanager
def results_in(*folders: Path) -> Iterator[None]:
    """Private folders, the outer one first, without what killed runs left; empty ones go at the end."""
    with ExitStack() as stack:
        for folder in folders:
            make_private(folder)
            stack.callback(_remove_empty, folder)
            remove_leftovers_in(folder)
        yield


def _finish(source: Path, target: Path, may_replace: MayReplace, beside: Path | None) -> None:
    try:
        refused = None if _put(source, target, may_replace) else "it appeared while this run was working."
    except OSError as error:
        refused = f"{error.strerror or error}."
    if refused is None:
        if beside is not None:
            source.with_name(beside.name).replace(beside)
        return
    kept = _keep(source, target)
    if beside is not None:
        second = beside.with_name(beside.name.replace(target.stem, kept.stem, 1))
        rename_onto_nothing(source.with_name(beside.name), second)
    raise KeptError(
        f"cannot write {target}",
        why=refused,
        fix=f"The result is complete and is in {kept}: move it to where you want it.",
    )


def _put(source: Path, target: Path, may_replace: MayReplace) -> bool:
    """Rename, if what is there at that moment may be replaced."""
    with suppress(FileExistsError):
        rename_onto_nothing(source, target)
        return True
    if not may_replace(target):
        return False
    if not source.is_dir() and not target.is_dir():
        source.replace(target)
        return True
    exchange(source, target)
    if may_replace(source):
        return True
    exchange(source, target)  # it is not what was asked about a moment ago
    return False


def _keep(source: Path, target: Path) -> Path:
    stem, suffix = (target.name, "") if source.is_dir() else (target.stem, target.suffix)
    for number in count(1):
        kept = target.with_name(f"{stem}.finished{'' if number == 1 else f'-{number}'}{suffix}")
        with suppress(FileExistsError):
            rename_onto_nothing(source, kept)
            break
    return kept


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # it holds something by now
        folder.rmdir()


def write_json(
    target: Path, value: Any, *, may_replace: MayReplace = anything, private: bool = False
) -> None:
    """Write ``value`` as readable JSON, whole or not at all; see ``writing``."""
    text = json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n"
    if not text.isascii():  # half a surrogate pair, which only an escape can write
        text = re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text)
    write_text(target, text, may_replace=may_replace, private=private)


def write_text(
    target: Path, text: str, *, may_replace: MayReplace = anything, private: bool = False
) -> None:
    """Write ``text`` as UTF-8, whole or not at all; see ``writing``."""
    with writing(target, may_replace=may_replace, private=private) as path:
        path.write_text(text, encoding="utf-8")


def write_with(target: Path, save: Callable[[Path], object], *, private: bool = False) -> None:
    """Let ``save`` write a file or folder, whole or not at all; see ``writing``."""
    with writing(target, private=private) as path:
        save(path)


def refuse_existing(target: Path, *, overwrite: bool | None) -> None:
    """Refuse, before any work is done, a folder that could not be written at the end.

    ``overwrite`` is None for a command without that option.

    Raises:
        OutputError: ``target`` holds something and ``overwrite`` is false, ``overwrite`` is true and it
            holds something no run wrote, or nothing can be written there.
    """
    require_writable(target)
    refuse_link(target)
    if not (target.is_file() or (target.is_dir() and any(target.iterdir()))):
        return
    if not overwrite:
        raise OutputError(
            f"{target} already exists",
            why="a run does not overwrite another one by default.",
            fix=_free_it(overwrite),
        )
    if not (target / RECORD).is_file():
        raise OutputError(
            f"{target} is not an earlier result",
            why=f"--overwrite replaces a whole folder, and this one has no {RECORD}: no run wrote it.",
            fix="Choose another --output, or remove it yourself.",
        )


def claim_file(target: Path, *, source: str, overwrite: bool | None) -> None:
    """Refuse, before any work is done, a file that could not be written at the end, or ``source`` itself.

    ``overwrite`` is None for a command without that option.

    Raises:
        OutputError: ``target`` is there and ``overwrite`` is false, or it is what is read, or a folder.
    """
    require_writable(target)
    if os.path.lexists(target) and (target.is_dir() or not overwrite):
        raise OutputError(
            f"{target} already exists",
            why="existing output is not overwritten by default.",
            fix=_free_it(overwrite),
        )
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise OutputError(
            f"{target} is the file that is read",
            why="input files are never overwritten.",
            fix="Choose another --output.",
        )


def _free_it(overwrite: bool | None) -> str:
    other = "move it away." if overwrite is None else "pass --overwrite to replace it."
    return f"Choose another --output, or {other}"


def refuse_link(path: Path) -> None:
    """Refuse a symbolic link: what is behind it is not the program's to replace or remove.

    Raises:
        OutputError: it is one.
    """
    if path.is_symlink():
        raise OutputError(
            f"{path} is a symbolic link",
            why="what it points to is neither replaced nor removed.",
            fix="Name the folder it points to, or move the link away.",
        )


def require_writable(target: Path) -> None:
    """Refuse a path that nothing can be written to; nothing is created to find out.

    Leftovers of killed runs are removed.

    Raises:
        OutputError: a file is where a folder would have to be, or the folder may not be written to.
    """
    _refuse_unwritable(target)
    remove_leftovers(target)


def _refuse_unwritable(target: Path) -> None:
    if target.name in ("", ".."):
        raise OutputError(
            f"cannot write {target}",
            why="it does not end in the name of a file or folder to create.",
            fix="Choose another path with --output, for instance runs/unlearned.",
        )
    folder = target
    for _ in range(TRIES):  # another run may remove, as empty, what it has just created
        folder = next(parent for parent in target.absolute().parents if os.path.lexists(parent))
        if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
            return
    why = f"you may not write to {folder}." if folder.is_dir() else f"{folder} is not a folder."
    raise OutputError(f"cannot write {target}", why=why, fix="Choose another folder with --output.")


def local_folder(path_or_id: str | Path) -> Path | None:
    """The folder meant, or ``None`` when this can only be a name on the Hub.

    Raises:
        ModelError: a local path was meant, and it does not exist or is a file.
    """
    path = Path(path_or_id).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(
            f"{path} is a file",
            why="a checkpoint is a folder with config.json and safetensors weights.",
            fix=f"Give its folder, {str(path.parent)!r}.",
        )
    text = str(path_or_id)
    if isinstance(path_or_id, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1:
        nearby = [sibling.name for sibling in path.parent.glob("*") if sibling.is_dir()]
        raise ModelError(
            f"no folder {path}",
            why="it does not exist.",
            fix=did_you_mean(path.name, nearby) if nearby else "Check the path.",
        )
    return None
