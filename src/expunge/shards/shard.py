"""One shard, trained from the last slice whose weights are still good: what a worker is given to do."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from expunge.corpus.tokenise import encode
from expunge.errors import OutputError, TrainingError
from expunge.files import write_json, writing
from expunge.model.device import best_device
from expunge.model.load import load_model, load_tokenizer
from expunge.model.positions import check_lengths
from expunge.model.precision import prepare_weights
from expunge.record import hash_file
from expunge.shards.cost import epochs_of_slices
from expunge.shards.folder import LOCK, OPTIMIZER, STATE, WEIGHTS, PlanFolder, locked
from expunge.shards.learner import Item, Learner
from expunge.shards.manifest import Training
from expunge.shards.plan import content_of, number_of


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """A shard to bring up to date: the plan's folder, the keys its slices must end with.

    ``parent``: the process that wants the work; it is left when that one is gone.
    """

    plan: Path
    shard: int
    keys: tuple[str, ...]
    parent: int | None = None


class SliceDone(NamedTuple):
    """What is there after a slice: its key, hashes of its files, examples that were read, seconds it took.

    ``optimizer`` is empty where an earlier version wrote it, which did not hash that file.
    """

    shard: int
    slice: int
    key: str
    weights: str
    examples: int
    seconds: float
    optimizer: str = ""


_STATE = TypeAdapter(SliceDone)


def train_shard(task: ShardTask) -> int:
    """Train the slices of a shard whose weights are not there yet; how many there were.

    The weights of every slice are written whole before the next begins, so whoever is killed loses at
    most one slice.

    Raises:
        TrainingError: the loss is not a number.
    """
    plan = PlanFolder(task.plan)
    with locked(plan.shard(task.shard) / LOCK), _reproducible(), torch.random.fork_rng():
        alive = _watch(task.parent)
        alive()  # while this waited for the lock, too
        folders = [plan.weights(task.shard, piece, key) for piece, key in enumerate(task.keys)]
        done = next((piece for piece in reversed(range(len(folders))) if folders[piece].exists()), -1)
        if done == len(folders) - 1:
            return 0
        learner, items = _begin(plan, task.shard)
        if done >= 0:
            learner.restore(folders[done])
        epochs = epochs_of_slices(plan.manifest.training.epochs, len(folders))
        for piece in range(done + 1, len(folders)):
            began = time.perf_counter()
            seen = [item for held in items[: piece + 1] for item in held]
            count = learner.learn(seen, piece=piece, epochs=epochs[piece], alive=alive)
            alive()
            with writing(folders[piece]) as scratch:
                learner.save(scratch)
                state = SliceDone(
                    shard=task.shard,
                    slice=piece,
                    key=task.keys[piece],
                    weights=hash_file(scratch / WEIGHTS),
                    optimizer=hash_file(scratch / OPTIMIZER),
                    examples=count,
                    seconds=round(time.perf_counter() - began, 3),
                )
                write_json(scratch / STATE, state._asdict())
    return len(folders) - 1 - done


def read_state(folder: Path) -> SliceDone:
    """What is written beside the weights of a slice.

    Raises:
        OutputError: it is missing or was changed.
    """
    try:
        return _STATE.validate_json((folder / STATE).read_bytes(), strict=True)
    except (OSError, ValidationError) as error:
        raise OutputError(
            f"{folder / STATE}",
            why="it is missing, or not what training writes there.",
            fix=f"Remove {folder} and repeat: the slice is trained again.",
        ) from error


def start_model(folder: Path, training: Training, *, seed: int) -> tuple[nn.Module, Any]:
    """The model that a shard begins with, with a fresh adapter if there is to be one; its tokenizer."""
    model: nn.Module = load_model(folder)
    tokenizer = load_tokenizer(folder, model=model)
    model = prepare_weights(model, "fp32", device=best_device())
    model.requires_grad_(training.lora is None)
    if training.lora is not None:
        torch.manual_seed(number_of(seed, "adapter"))
        model = training.lora.prepare(model)
    return model, tokenizer


def _begin(plan: PlanFolder, shard: int) -> tuple[Learner, list[list[Item]]]:
    training = plan.manifest.training
    seed = number_of(plan.manifest.cut.seed, "shard", shard)
    model, tokenizer = start_model(plan.start, training, seed=seed)
    items = [
        _items(plan, shard, piece, tokenizer, training.max_length)
        for piece in range(plan.manifest.cut.slices)
    ]
    check_lengths(model, (len(one.input_ids) for held in items for item in held for one in item.sequences))
    return Learner(model, training, pad_id=tokenizer.pad_token_id, seed=seed), items


def _items(plan: PlanFolder, shard: int, piece: int, tokenizer: Any, max_length: int) -> list[Item]:
    return [
        Item(content_of(example), encode(example, tokenizer, max_length=max_length))
        for example in plan.examples(shard, piece)
    ]


def _watch(parent: int | None) -> Any:
    """What raises once the process that wanted the work is gone: nobody writes for a killed run."""

    def alive() -> None:
        if parent is not None and os.getppid() != parent:
            raise TrainingError(
                "a worker without a parent", why="the command that started it was killed.", fix="Repeat it."
            )

    return alive


@contextmanager
def _reproducible() -> Iterator[None]:
    """One thread, for sums over several may differ in their last bit; on a GPU sums in a fixed order."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def up_to_date(plan: PlanFolder, shard: int, keys: Sequence[str]) -> bool:
    """Whether the last slice's weights are there."""
    return plan.weights(shard, len(keys) - 1, keys[-1]).exists()
