"""A file of the reference's numbers, one row per counted token, read a sequence at a time.

Rows are read by position and not mapped into the process, so resident memory does not grow with what was
read; the system's page cache keeps the recently used ones.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Mapping, MutableMapping
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from expunge.errors import OutputError
from expunge.files import write_json
from expunge.parsing import load_json

if TYPE_CHECKING:
    from expunge.inference.reference import Key

StateDtype = Literal["fp32", "bf16"]
"""How hidden states are stored: as computed, or rounded to bfloat16."""

GIB = 1 << 30


class StateFile(MutableMapping["Key", Tensor]):
    """The values of each sequence, shape [N, *row] for its N counted tokens, in the order of ``counts``.

    Values are stored as ``stored`` and returned as ``computed``. The file is whole once ``close`` wrote its
    ``fingerprint`` beside it; a whole file of the same fingerprint is used as it is (``is_whole``).
    """

    def __init__(
        self,
        path: Path,
        counts: Mapping[Key, int],
        *,
        row: tuple[int, ...],
        computed: torch.dtype,
        stored: torch.dtype,
        fingerprint: str,
    ) -> None:
        self.path = path
        self._counts = counts
        self._row = row
        self._computed = computed
        self._stored = stored
        self._row_bytes = math.prod(row) * stored.itemsize
        self._starts = dict(zip(counts, accumulate(counts.values(), initial=0), strict=False))
        self._mark = {
            "fingerprint": fingerprint,
            "rows": sum(counts.values()),
            "row": list(row),
            "dtype": str(stored),
        }

    @property
    def nbytes(self) -> int:
        """Size of the file when it is whole."""
        return sum(self._counts.values()) * self._row_bytes

    @property
    def is_whole(self) -> bool:
        """Whether the file was filled to the end with what it is to hold."""
        try:
            return (
                self.path.stat().st_size == self.nbytes and load_json(self._seal.read_bytes()) == self._mark
            )
        except (OSError, ValueError):
            return False

    @property
    def _seal(self) -> Path:
        return self.path.with_suffix(".json")

    def remove(self) -> None:
        """Remove a file that is there."""
        self._seal.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def create(self) -> None:
        """Make an empty file that only the user can read."""
        os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

    def close(self) -> None:
        """Declare the file whole, once its bytes are on the disk."""
        with self.path.open("r+b") as file:
            os.fsync(file.fileno())
        write_json(self._seal, self._mark)

    def __getitem__(self, key: Key) -> Tensor:
        values = torch.empty((self._counts[key], *self._row), dtype=self._stored)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self._starts[key] * self._row_bytes)
            if file.readinto(_bytes(values)) != values.nbytes:
                raise OutputError(
                    f"the reference cache {self.path}",
                    why="it was cut short while the run used it.",
                    fix="Repeat the command; the cache is then filled again.",
                )
        return values.to(self._computed)

    def __setitem__(self, key: Key, values: Tensor) -> None:
        with self.path.open("r+b", buffering=0) as file:
            file.seek(self._starts[key] * self._row_bytes)
            rest = _bytes(values.to(self._stored).contiguous())
            while rest:
                rest = rest[file.write(rest) or 0 :]

    def __delitem__(self, key: Key) -> None:
        raise TypeError(f"{key} cannot be removed from a file of fixed layout")

    def __iter__(self) -> Iterator[Key]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)


def require_room(folder: Path, needed: int) -> None:
    """Refuse a cache that the disk of ``folder`` cannot hold.

    Raises:
        OutputError: fewer bytes are free than ``needed``.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"a reference cache of {needed / GIB:.1f} GiB in {folder}",
            why=f"only {free / GIB:.1f} GiB are free there.",
            fix="Set reference_dtype=bf16 (half the size), limit max_steps, retain fewer texts, write the "
            "output to another disk, or use scope lora, which needs no cache.",
        )


def _bytes(values: Tensor) -> memoryview:
    flat = values.view(torch.uint8).reshape(-1).numpy()
    return flat.data
