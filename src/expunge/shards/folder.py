"""The folder of a plan: manifest, ledger, the texts of every slice, the weights after every slice.

Files are found by their names alone: the weights after a slice are named by the hash of all they
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
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError, model_validator

from expunge.component import Component, Epochs
from expunge.corpus.formats import write_examples
from expunge.corpus.readers import read_examples
from expunge.errors import OutputError
from expunge.files import make_private, refuse_link, writing
from expunge.locks import NO_FOLLOW
from expunge.record import hash_json
from expunge.registry import explain
from expunge.scope.lora import LowRankAdapters
from expunge.scratch import OWN
from expunge.shards.ledger import Ledger
from expunge.shards.plan import ExampleRow, SplitSettings, epochs_of_slices
from expunge.types import Example


class Training(Component):
    """How a shard is trained, slice after slice.

    The schedule is that of each slice: one over the whole shard would let early slices depend on what
    lies in later ones.
    """

    epochs: Epochs = Field(
        default=20, description="Passes over the data, counted as if there were no slices."
    )
    learning_rate: PositiveFloat = Field(default=1e-4, description="Peak learning rate.")
    batch_size: PositiveInt = Field(default=8, description="Examples per optimizer step.")
    piece: PositiveInt = Field(default=8, description="Sequences that are computed at once.")
    max_length: Annotated[int, Field(ge=8)] = Field(
        default=512,
        description="The most tokens of a sequence; longer documents are cut, longer pairs refused.",
    )
    weight_decay: NonNegativeFloat = Field(default=0.0, description="Decoupled weight decay of AdamW.")
    max_grad_norm: PositiveFloat = Field(
        default=1.0, description="The norm to which gradients are clipped."
    )
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=(0.9, 0.999), description="Decay rates of AdamW's two moments, each at least 0 and below 1."
    )
    schedule: Literal["constant", "linear"] = Field(
        default="constant",
        description="Whether the learning rate is constant, or falls linearly to zero within each slice.",
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Steps over which the learning rate rises linearly from 0."
    )
    lora: LowRankAdapters | None = Field(
        default=None,
        description=(
            "Adapters that alone are trained, on a start that all shards share; null: all weights are."
        ),
    )


class Start(Component):
    """The checkpoint every shard begins with: its folder, and the SHA-256 of weights and tokenizer."""

    folder: Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
    weights: str
    tokenizer: str


class Manifest(Component):
    """A plan as it is written down; it never changes, deletions stand in the ledger."""

    cut: SplitSettings
    training: Training
    start: Start
    rows: tuple[ExampleRow, ...]

    @model_validator(mode="after")
    def _every_slice_is_trained(self) -> Manifest:
        epochs_of_slices(self.training.epochs, self.cut.slices)
        return self

    @model_validator(mode="after")
    def _rows_fit_the_cut(self) -> Manifest:
        outside = [r.id for r in self.rows if r.shard >= self.cut.shards or r.slice >= self.cut.slices]
        if outside:
            raise ValueError(f"row {outside[0]!r} lies outside of the shards and slices")
        if len({row.id for row in self.rows}) != len(self.rows):
            raise ValueError("two rows have the same id")
        missing = set(range(self.cut.shards)) - {row.shard for row in self.rows}
        if missing:
            raise ValueError(f"shard {min(missing)} has no rows")
        return self

    @property
    def sha256(self) -> str:
        """The hash that the ledger's first entry holds."""
        return hash_json(self.model_dump(mode="json"))

    @property
    def recipe_sha256(self) -> str:
        """The hash of everything but the examples that determines the weights."""
        facts = self.model_dump(mode="json")
        dealt = {name: facts["cut"][name] for name in ("shards", "slices", "seed")}
        begun = {name: facts["start"][name] for name in ("weights", "tokenizer")}
        return hash_json([dealt, begun, facts["training"]])

    def key(self, shard: int, piece: int, contents: list[list[str]]) -> str:
        """The name of the weights after slice ``piece``, given what slices up to it hold.

        Two runs that would train the same weights have the same key: a checkpoint that has seen
        anything else is never taken for another.
        """
        return hash_json([self.recipe_sha256, shard, [sorted(held) for held in contents[: piece + 1]]])


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
