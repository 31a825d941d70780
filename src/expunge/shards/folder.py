"""The folder of a plan: manifest, ledger, the texts of every slice, the weights after every slice.

Where what lies is known by its name alone: the weights after a slice are named by the hash of all they
depend on, so what a killed run left is either exactly what is wanted or is removed.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from expunge.corpus.readers import read_examples
from expunge.corpus.writer import write_examples
from expunge.errors import OutputError
from expunge.files import writing
from expunge.registry import explain
from expunge.shards.ledger import Ledger
from expunge.shards.manifest import Manifest
from expunge.shards.plan import Row
from expunge.types import Example

MANIFEST, LEDGER, START, LOCK = "plan.json", "ledger.sqlite", "start", ".lock"
WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
NAME_DIGITS = 16


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

    def rows(self) -> list[Row]:
        """The rows that are not deleted."""
        gone = self.gone()
        return [row for row in self.manifest.rows if row.id not in gone]

    def keys(self, rows: list[Row]) -> list[list[str]]:
        """For each shard the key of the weights after each slice, if the plan holds ``rows``."""
        cut = self.manifest.cut
        contents: list[list[list[str]]] = [[[] for _ in range(cut.slices)] for _ in range(cut.shards)]
        for row in rows:
            contents[row.shard][row.slice].append(row.content)
        return [
            [self.manifest.key(shard, piece, held) for piece in range(cut.slices)]
            for shard, held in enumerate(contents)
        ]

    def last_weights(self, shard: int, rows: list[Row]) -> Path:
        """The weights of a shard that saw all its slices."""
        return self.weights(shard, self.manifest.cut.slices - 1, self.keys(rows)[shard][-1])

    def settle(self, rows: list[Row]) -> None:
        """Remove what ``rows`` do not allow: other texts, weights that saw them, remains of killed runs."""
        allowed = {row.id for row in rows}
        for shard, keys in enumerate(self.keys(rows)):
            folder = self.shard(shard)
            folder.mkdir(exist_ok=True)
            with locked(folder / LOCK):
                self._settle_texts(shard, allowed)
                wanted = {LOCK} | {
                    path.name
                    for piece, key in enumerate(keys)
                    for path in (self.texts(shard, piece), self.weights(shard, piece, key))
                }
                for path in folder.iterdir():
                    if path.name not in wanted:
                        _remove(path)

    def _settle_texts(self, shard: int, allowed: set[str]) -> None:
        for piece in range(self.manifest.cut.slices):
            held = self.examples(shard, piece)
            kept = [example for example in held if example.id in allowed]
            if len(kept) == len(held):
                continue
            if kept:
                write_examples(self.texts(shard, piece), kept)
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
        write_examples(plan.texts(shard, piece), held)
    plan.ledger.append("planned", manifest=manifest.sha256, examples=len(examples))


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock that the system lets go of when this process ends, however it ends.

    Raises:
        OutputError: another process holds it, and ``wait`` is false.
    """
    with path.open("w") as held:
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
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
