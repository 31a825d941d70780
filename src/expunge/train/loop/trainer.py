"""The loop is ``transformers.Trainer``; ours are the loss, the scope and the order of the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset, Sampler
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from expunge.errors import RecipeError, TrainingError
from expunge.model.precision import OptimizerName, RoundedAdamW, WeightPrecision, as_in_training
from expunge.model.rope import separate_rope_lengths
from expunge.scope.selection import ScopeGuard
from expunge.train.loop.callbacks import LossOnBar

Parts = dict[str, Tensor]
"""The terms of a loss by name, each the sum over the examples of a batch, already weighted."""

Objective = Callable[[nn.Module, Any], Parts]
"""From a model and a batch to the terms of its loss."""

Begin = Callable[[nn.Module, Sequence[Any], int, int], None]
"""Told before each step: the model, the batches the step is made of, steps done and steps in all."""


class ObjectiveTrainer(Trainer):
    """Minimises an objective under a scope, in a chosen weight precision.

    The loss of a step is the sum over all examples of all its micro-batches divided by their
    number, so accumulating 1×8 and 8×1 is the same step. A loss that is not a number stops the run
    before it reaches the weights.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        objective: Objective,
        count_examples: Callable[[Any], int],
        sampler: Sampler[Any],
        dataset: Dataset[Any],
        collate: Callable[[list[Any]], Any],
        precision: WeightPrecision = "fp32",
        optimizer: OptimizerName = "adamw",
        guard: ScopeGuard | None = None,
        begin: Begin | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        separate_rope_lengths(model)
        if args.gradient_checkpointing and not getattr(model, "supports_gradient_checkpointing", False):
            raise RecipeError(
                "gradient_checkpointing",
                why=f"transformers cannot compute the blocks of {type(model).__name__} again.",
                fix="Leave it out; raise accumulation instead (the same step in smaller pieces).",
            )
        super().__init__(
            model, args, train_dataset=dataset, data_collator=collate, callbacks=list(callbacks)
        )
        self.model_accepts_loss_kwargs = True  # the loss below is already divided by the step's examples
        self.remove_callback(PrinterCallback)
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(LossOnBar())
        self._objective = objective
        self._count_examples = count_examples
        self._sampler = sampler
        self._precision = precision
        self._optimizer_name = optimizer
        self._guard = guard
        self._begin = begin
        self._pieces: Sequence[Any] = ()
        self._sums: dict[str, float] = {}
        self._steps_before = 0

    def train_from(self, checkpoint: Path | None) -> None:
        """Train from the beginning, or resume from a checkpoint."""
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if self.args.gradient_checkpointing:
            self.model.gradient_checkpointing_disable()

    def restore(self, checkpoint: Path | None) -> bool:
        """Put the weights of a checkpoint back; false if there is none."""
        if checkpoint is None:
            return False
        self._load_from_checkpoint(str(checkpoint))
        return True

    def _get_train_sampler(self, *_: Any) -> Sampler[Any]:
        return self._sampler

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs.to(self.args.device)

    def floating_point_ops(self, inputs: Any) -> int:  # noqa: ARG002
        """Not counted: the base class estimates the cost of a loss that is not ours."""
        return 0

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        count = torch.tensor(sum(self._count_examples(batch) for batch in batch_samples), device=device)
        gathered: Tensor = self.accelerator.gather(count).sum()
        return gathered

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """AdamW over the weights that may change, in the chosen precision, with the scope's guard."""
        made: Optimizer | None = getattr(self, "optimizer", None)
        if made is None:
            made = self._make_optimizer(model if model is not None else self.model)
            if self._guard is not None:
                self._guard.attach(made)
            self.optimizer = made
        return made

    def _make_optimizer(self, model: nn.Module) -> Optimizer:
        decaying = set(self.get_decay_parameter_names(model))
        named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        groups = [
            {
                "params": [w for name, w in named if name in decaying],
                "weight_decay": self.args.weight_decay,
            },
            {"params": [w for name, w in named if name not in decaying], "weight_decay": 0.0},
        ]
        betas = (self.args.adam_beta1, self.args.adam_beta2)
        lr, eps = self.args.learning_rate, self.args.adam_epsilon
        if self._precision == "fp32" and self._optimizer_name == "adamw":
            return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps)
        return RoundedAdamW(
            groups,
            lr=lr,
            betas=betas,
            eps=eps,
            precision=self._precision,
            moments=self._optimizer_name,
            seed=self.args.seed,
        )

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Tensor]:
        """The batches of the next step, which begins at its first loss, and how many examples they hold."""
        self._pieces, count = super().get_batch_samples(*args, **kwargs)
        return list(self._pieces), count

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The objective's terms summed and divided by the examples of the whole step."""
        if return_outputs or num_items_in_batch is None:
            raise TypeError("this trainer trains; evaluate with an Observer")
        if not self._sums:
            self._steps_before = self.state.global_step
        # The base class would switch autocast on in the model's own forward pass, which is never called.
        with as_in_training(self._precision, self.args.device):
            self._begin_step(model)
            terms = self._objective(model, inputs)
        loss = torch.stack(list(terms.values())).sum() / num_items_in_batch
        self._note(terms, num_items_in_batch)
        if not math.isfinite(loss.item()):
            broken = ", ".join(name for name, term in terms.items() if not torch.isfinite(term))
            raise self._overflow("loss", f"the {broken or 'summed'} loss")
        scaled: Tensor = loss * self.accelerator.num_processes  # gradients are averaged over processes
        return scaled

    def _begin_step(self, model: nn.Module) -> None:
        if self._begin is not None and self._pieces:
            batches = [self._prepare_inputs(piece) for piece in self._pieces]
            self._begin(model, batches, self.state.global_step, self.state.max_steps)
        self._pieces = ()

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Clip by the norm of what may change; a gradient that is not a number stops the run."""
        if self._guard is not None:
            self._guard.zero_outside()
        norm: Tensor = super()._clip_grad_norm(model)
        if not torch.isfinite(norm):
            raise self._overflow("gradient", "a term of it")
        return norm

    def _note(self, terms: Parts, count: Tensor | int) -> None:
        for name, term in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(term.detach()) / float(count)

    def _overflow(self, what: str, culprit: str) -> TrainingError:
        return TrainingError(
            f"the {what} is not a number at step {self.state.global_step + 1}",
            why=f"{culprit} overflowed at learning rate {self.args.learning_rate:g}.",
            fix="Lower learning_rate, use a bounded forget loss (npo), or add a retain loss.",
        )

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the terms of the loss in addition to their sum, averaged since the last log."""
        if "loss" in logs and self._sums:
            steps = max(1, self.state.global_step - self._steps_before)
            logs |= {f"loss_{name}": value / steps for name, value in self._sums.items()}
            self._sums = {}
        super().log(logs, *args, **kwargs)
