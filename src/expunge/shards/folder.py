"""The folder of a plan: manifest, ledger, the texts of every slice, the weights after every slice.

Where what lies is known by its name alone: the weights after a slice are named by the hash of all they
depend on, so what a killed run left is either exactly what is wanted or is removed.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from expunge.corpus.readers import read_examples
from expunge.corpus.writer import write_examples
from expunge.errors import OutputError
from expunge.files import make_private, refuse_link, writing
from expunge.locks import NO_FOLLOW
from expunge.registry import explain
from expunge.scratch import OWN
from expunge.shards.ledger import Ledger
from expunge.shards.manifest import Manifest
from expunge.shards.plan import ExampleRow
from expunge.types import Example

MANIFEST, LEDGER, START, LOCK = "plan.json", "ledger.sqlite", "start", ".lock"
WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
NAME_DIGITS = 16
OWN_NAMES = re.compile(
    rf"slice-\d{{3,}}(\.jsonl|-[0-9a-f]{{{NAME_DIGITS}}})|\.slice-.+({re.escape(OWN)}|\.)[a-z0-9_]{{8}}"
)
"""What is called so in the folder of a shard was written there by a run, or by one that was killed."""


class PlanFolder:
    """A plan on the disk.

    Raises:
        OutputError: there is none, or its manifest cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / MANIFEST).is_file():
            raise OutputError(
                f"{path} holds no plan",
                why=f"there is no {MANIFEST} in it.",
                fix="Make one: expunge shards plan --data FILE --model FOLDER -o PLAN",
            )
        try:
            self.manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
        except ValidationError as error:
            raise OutputError(
                f"{path / MANIFEST}",
                why=explain(error),
                fix="Restore it from a copy: the ledger's first entry holds its hash.",
            ) from error
        self.ledger = Ledger(path / LEDGER)

    @property
    def start(self) -> Path:
        """The checkpoint that every shard begins with."""
        return self.path / self.manifest.start.folder  # an absolute one stays what it is

    def require_ledger(self) -> None:
        """Refuse a plan whose ledger is gone: without it, deleted examples would count as never deleted.

        Raises:
            OutputError: there is none, or it is empty.
        """
        if not self.ledger.events("planned"):
            raise OutputError(
                f"the ledger {self.ledger.path}",
                why="it is missing or empty, so it is unknown what was deleted from the plan.",
                fix="Restore it from a copy, or make the plan again.",
            )

    def shard(self, shard: int) -> Path:
        """The folder of a shard."""
        return self.path / f"shard-{shard:03}"

    def texts(self, shard: int, piece: int) -> Path:
        """The file with the examples of a slice; there is none for an empty one."""
        return self.shard(shard) / f"slice-{piece:03}.jsonl"

    def weights(self, shard: int, piece: int, key: str) -> Path:
        """The folder of the weights after a slice."""
        return self.shard(shard) / f"slice-{piece:03}-{key[:NAME_DIGITS]}"

    def examples(self, shard: int, piece: int) -> list[Example]:
        """The examples of a slice as they lie there."""
        path = self.texts(shard, piece)
        return read_examples(path) if path.exists() else []

    def gone(self) -> set[str]:
        """The ids whose deletion was asked for."""
        return {name for event in self.ledger.events("requested") for name in event.facts["ids"]}

    def rows(self) -> list[ExampleRow]:
        """The rows that are not deleted."""
        gone = self.gone()
        return [row for row in self.manifest.rows if row.id not in gone]

    def keys(self, rows: list[ExampleRow]) -> list[list[str]]:
        """For each shard the key of the weights after each slice, if the plan holds ``rows``."""
        cut = self.manifest.cut
        contents: list[list[list[str]]] = [[[] for _ in range(cut.slices)] for _ in range(cut.shards)]
        for row in rows:
            contents[row.shard][row.slice].append(row.content)
        return [
            [self.manifest.key(shard, piece, held) for piece in range(cut.slices)]
            for shard, held in enumerate(contents)
        ]

    def last_weights(self, shard: int, rows: list[ExampleRow]) -> Path:
        """The weights of a shard that saw all its slices."""
        return self.weights(shard, self.manifest.cut.slices - 1, self.keys(rows)[shard][-1])

    def settle(self, rows: list[ExampleRow]) -> None:
        """Remove what ``rows`` do not allow: other texts, weights that saw them, remains of killed runs.

        Only what bears the names that runs give is removed.

        Raises:
            OutputError: the folder of a shard, or what is in it under such a name, is a symbolic link.
        """
        allowed = {row.id for row in rows}
        for shard, keys in enumerate(self.keys(rows)):
            folder = self.shard(shard)
            refuse_link(folder)
            make_private(folder)
            with locked(folder / LOCK):
                for path in folder.iterdir():
                    if OWN_NAMES.fullmatch(path.name):
                        refuse_link(path)
                self._settle_texts(shard, allowed)
                wanted = {
                    path.name
                    for piece, key in enumerate(keys)
                    for path in (self.texts(shard, piece), self.weights(shard, piece, key))
                }
                for path in folder.iterdir():
                    if path.name not in wanted and OWN_NAMES.fullmatch(path.name):
                        _remove(path)

    def _settle_texts(self, shard: int, allowed: set[str]) -> None:
        for piece in range(self.manifest.cut.slices):
            held = self.examples(shard, piece)
            kept = [example for example in held if example.id in allowed]
            if len(kept) == len(held):
                continue
            if kept:
                write_examples(self.texts(shard, piece), kept, private=True)
            else:
                self.texts(shard, piece).unlink()


def write_plan(path: Path, manifest: Manifest, examples: list[Example]) -> None:
    """Write texts, manifest and the ledger's first entry into a folder that does not exist yet."""
    path.mkdir(exist_ok=True)
    by_id = {example.id: example for example in examples}
    cells: dict[tuple[int, int], list[Example]] = {}
    for row in manifest.rows:
        cells.setdefault((row.shard, row.slice), []).append(by_id[row.id])
    with writing(path / MANIFEST) as scratch:
        scratch.write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    plan = PlanFolder(path)
    for (shard, piece), held in cells.items():
        write_examples(plan.texts(shard, piece), held, private=True)
    plan.ledger.append("planned", manifest=manifest.sha256, examples=len(examples))


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock that the system lets go of when this process ends, however it ends.

    Raises:
        OutputError: it is a symbolic link, or another process holds it, and ``wait`` is false.
    """
    refuse_link(path)
    with os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR | NO_FOLLOW, 0o600), "r+") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise OutputError(
                f"{path.parent} is being worked on",
                why="another command is training or deleting there.",
                fix="Wait until it has ended, then repeat this one.",
            ) from error
        yield


def _remove(path: Path) -> None:
    refuse_link(path)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
