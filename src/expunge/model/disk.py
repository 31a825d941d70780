"""A full disk, told in one way: every library that meets one reports it in its own."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from expunge.errors import OutputError
from expunge.files import FREE_SPACE_FIX

CUT_SHORT = re.compile(r"I/O error: (?P<reason>.*) \(os error|inline_container|PytorchStreamWriter")
"""What safetensors and ``torch.save`` say when the file system takes no more bytes."""
MIB = 1 << 20


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn whatever a library raises when ``target`` cannot be written into a refusal.

    Raises:
        OutputError: the block could not write, because the disk is full, say.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        found = CUT_SHORT.search(str(error))
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
        elif found is not None:
            reason = found["reason"] or "A file was cut short"
        else:
            raise
        home = next(parent for parent in target.absolute().parents if parent.is_dir())
        free = shutil.disk_usage(home).free / MIB
        raise OutputError(
            f"cannot write {target}", why=f"{reason}; {free:.0f} MiB are free there.", fix=FREE_SPACE_FIX
        ) from error
