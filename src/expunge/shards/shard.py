"""One shard: training on its slices from the last one whose weights are still valid.

The loop is not ``transformers.Trainer``: weights, moments and random numbers continue from slice to slice
while the data grows, and the order of an epoch is that of hashes of its items.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import AdamW

from expunge.corpus.batching import collate
from expunge.corpus.tokenise import Encoded, encode
from expunge.errors import OutputError, TrainingError
from expunge.files import write_json, writing
from expunge.inference.forward import compute_token_view
from expunge.model.load import load_model, load_tokenizer
from expunge.model.precision import prepare_weights
from expunge.model.resources import best_device
from expunge.model.rope import check_lengths
from expunge.record import hash_file
from expunge.retain.losses import GDR
from expunge.shards.folder import LOCK, OPTIMIZER, STATE, WEIGHTS, PlanFolder, Training, locked
from expunge.shards.plan import content_of, epochs_of_slices, number_of

CPU_RANDOM, DEVICE_RANDOM, STEPS = "random", "random_device", "steps"
MOMENTS = ("exp_avg", "exp_avg_sq")


T = TypeVar("T")


class LearnerExample(NamedTuple):
    """An example as the loop takes it: the hash of what it says, and its sequences."""

    content: str
    sequences: list[Encoded]


class Learner:
    """A model with its optimizer, trained slice after slice and saved between them."""

    def __init__(self, model: nn.Module, training: Training, *, pad_id: int, seed: int) -> None:
        self.model = model
        self.training = training
        self.pad_id = pad_id
        self.seed = seed
        self.weights = {name: w for name, w in model.named_parameters() if w.requires_grad}
        self.device = next(model.parameters()).device
        self.optimizer = AdamW(
            self.weights.values(),
            lr=training.learning_rate,
            betas=training.betas,
            weight_decay=training.weight_decay,
        )
        torch.manual_seed(number_of(seed, "random numbers"))

    def learn(
        self,
        items: Sequence[LearnerExample],
        *,
        piece: int,
        epochs: int,
        alive: Callable[[], None] = lambda: None,
    ) -> int:
        """Train ``epochs`` epochs on the items of slices up to ``piece``; how many examples were read.

        ``alive`` is called before each step and may raise.

        Raises:
            TrainingError: the loss is not a number.
        """
        steps = epochs * -(-len(items) // self.training.batch_size)
        self.model.train()
        examples = 0
        for step, batch in enumerate(self._batches(items, piece, epochs)):
            alive()
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate(step, steps)
            self._step([sequence for item in batch for sequence in item.sequences])
            examples += len(batch)
        self.model.eval()
        return examples

    def _batches(
        self, items: Iterable[LearnerExample], piece: int, epochs: int
    ) -> Iterator[Sequence[LearnerExample]]:
        for epoch in range(epochs):
            keyed = [(number_of(self.seed, piece, epoch, item.content), item) for item in items]
            order = [item for _, item in sorted(keyed, key=lambda pair: pair[0])]
            yield from _in_lots(order, self.training.batch_size)

    def _step(self, sequences: list[Encoded]) -> None:
        for part in _in_lots(sequences, self.training.piece):
            view = compute_token_view(self.model, collate(part, pad_id=self.pad_id).to(self.device))
            loss = GDR()(view).sum() / len(sequences)
            if not torch.isfinite(loss):
                raise TrainingError(
                    "the loss is not a number",
                    why=f"it overflowed at learning rate {self.training.learning_rate:g}.",
                    fix="Make the plan again with a lower learning_rate.",
                )
            loss.backward()
        nn.utils.clip_grad_norm_(self.weights.values(), self.training.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _rate(self, step: int, steps: int) -> float:
        warm = min(1.0, (step + 1) / (self.training.warmup_steps + 1))
        left = 1.0 if self.training.schedule == "constant" else 1 - step / steps
        return self.training.learning_rate * warm * left

    def save(self, folder: Path) -> None:
        """Write weights, moments and random state into a folder that does not exist yet."""
        folder.mkdir()
        save_file(
            {name: w.detach().cpu().contiguous() for name, w in self.weights.items()}, folder / WEIGHTS
        )
        save_file(self._optimizer_state(), folder / OPTIMIZER)

    def restore(self, folder: Path) -> None:
        """Go on from what ``save`` wrote."""
        put_weights(self.weights, folder)
        tensors = load_file(folder / OPTIMIZER)
        torch.set_rng_state(tensors[CPU_RANDOM])
        if DEVICE_RANDOM in tensors:
            torch.cuda.set_rng_state(tensors[DEVICE_RANDOM], self.device)
        for name, weight in self.weights.items():
            if f"{name}.{STEPS}" in tensors:
                self.optimizer.state[weight] = {
                    "step": tensors[f"{name}.{STEPS}"],
                    **{moment: tensors[f"{name}.{moment}"].to(self.device) for moment in MOMENTS},
                }

    def _optimizer_state(self) -> dict[str, Tensor]:
        state = {CPU_RANDOM: torch.get_rng_state()}
        if self.device.type == "cuda":
            state[DEVICE_RANDOM] = torch.cuda.get_rng_state(self.device)
        for name, weight in self.weights.items():
            known = self.optimizer.state.get(weight)
            if known:
                state[f"{name}.{STEPS}"] = known["step"].cpu()
                state |= {f"{name}.{moment}": known[moment].cpu() for moment in MOMENTS}
        return state


@torch.no_grad()
def put_weights(weights: Mapping[str, Tensor], folder: Path) -> None:
    """Copy the saved weights of a slice into those of the same names."""
    for name, value in load_file(folder / WEIGHTS).items():
        weights[name].copy_(value)


def _in_lots(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[begin : begin + size] for begin in range(0, len(items), size))


# One shard, trained from the last slice whose weights are still good: what a worker is given to do.


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

    The weights of every slice are written whole before the next begins, so a killed run loses at
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
    """What is written with the weights of a slice.

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


def _begin(plan: PlanFolder, shard: int) -> tuple[Learner, list[list[LearnerExample]]]:
    training = plan.manifest.training
    seed = number_of(plan.manifest.cut.seed, "shard", shard)
    model, tokenizer = start_model(plan.start, training, seed=seed)
    items = [
        _items(plan, shard, piece, tokenizer, training.max_length)
        for piece in range(plan.manifest.cut.slices)
    ]
    check_lengths(model, (len(one.input_ids) for held in items for item in held for one in item.sequences))
    return Learner(model, training, pad_id=tokenizer.pad_token_id, seed=seed), items


def _items(
    plan: PlanFolder, shard: int, piece: int, tokenizer: Any, max_length: int
) -> list[LearnerExample]:
    return [
        LearnerExample(content_of(example), encode(example, tokenizer, max_length=max_length))
        for example in plan.examples(shard, piece)
    ]


def _watch(parent: int | None) -> Any:
    """Raises once the parent process is gone, so that a killed run writes nothing more."""

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
