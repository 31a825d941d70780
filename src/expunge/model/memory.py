"""Too little memory, told as something its user can change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from expunge.errors import ModelError

NO_ROOM = "can't allocate memory"
"""What torch says of the processor's memory, in an error that has no class of its own."""


@contextmanager
def memory_errors(*, fix: str) -> Iterator[None]:
    """Turn what is raised when memory runs out into a refusal that says ``fix``.

    Raises:
        ModelError: the block needed more memory than there is.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and NO_ROOM not in str(error):
            raise
        first, *_ = str(error).splitlines() or [""]
        raise ModelError(
            "this machine's memory is too small for this", why=first or "There is no room left.", fix=fix
        ) from error
