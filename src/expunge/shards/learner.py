"""Training on slices. Nothing depends on a place in a list, so an example that is gone leaves no trace.

The loop is not ``transformers.Trainer``: weights, moments and random numbers go on from slice to slice
while the data grows, and the order of an epoch is that of hashes of its items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import AdamW

from expunge.corpus.batching import collate
from expunge.corpus.tokenise import Encoded
from expunge.errors import TrainingError
from expunge.retain.gdr import GradientDescent
from expunge.score.look import look
from expunge.shards.folder import OPTIMIZER, WEIGHTS
from expunge.shards.manifest import Training
from expunge.shards.plan import number_of

CPU_RANDOM, DEVICE_RANDOM, STEPS = "random", "random_device", "steps"
MOMENTS = ("exp_avg", "exp_avg_sq")


T = TypeVar("T")


class Item(NamedTuple):
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
        self, items: Sequence[Item], *, piece: int, epochs: int, alive: Callable[[], None] = lambda: None
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

    def _batches(self, items: Iterable[Item], piece: int, epochs: int) -> Iterator[Sequence[Item]]:
        for epoch in range(epochs):
            keyed = [(number_of(self.seed, piece, epoch, item.content), item) for item in items]
            order = [item for _, item in sorted(keyed, key=lambda pair: pair[0])]
            yield from _in_lots(order, self.training.batch_size)

    def _step(self, sequences: list[Encoded]) -> None:
        for part in _in_lots(sequences, self.training.piece):
            view = look(self.model, collate(part, pad_id=self.pad_id).to(self.device))
            loss = GradientDescent()(view).sum() / len(sequences)
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
        found = load_file(folder / OPTIMIZER)
        torch.set_rng_state(found[CPU_RANDOM])
        if DEVICE_RANDOM in found:
            torch.cuda.set_rng_state(found[DEVICE_RANDOM], self.device)
        for name, weight in self.weights.items():
            if f"{name}.{STEPS}" in found:
                self.optimizer.state[weight] = {
                    "step": found[f"{name}.{STEPS}"],
                    **{moment: found[f"{name}.{moment}"].to(self.device) for moment in MOMENTS},
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
