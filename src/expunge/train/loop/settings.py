"""The settings every training stage shares, and how they become ``TrainingArguments``."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator
from transformers import TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from expunge.component import Component, Epochs, Steps
from expunge.model.precision import OptimizerName, WeightPrecision, computes_in_bf16, require_moments
from expunge.model.resources import NO_BARS, best_device

SCHEDULES = {
    "constant": "constant_with_warmup",
    "linear": "linear",
    "cosine": "cosine",
    "stable_decay": "warmup_stable_decay",
}
DECAY_SHARE = 0.45

Beta = Annotated[float, Field(ge=0, lt=1)]
"""How much of a moment the next step keeps."""


class LoopSettings(Component):
    """Optimizer, batch and schedule."""

    learning_rate: PositiveFloat = Field(default=1e-5, description="Peak learning rate.")
    epochs: Epochs = Field(default=5, description="Passes over the training data.")
    max_steps: Steps | None = Field(
        default=None, description="Maximum number of optimizer steps, whatever `epochs` is; null: no limit."
    )
    batch_size: PositiveInt = Field(default=8, description="Examples per optimizer step.")
    accumulation: PositiveInt = Field(
        default=1,
        description="Equal pieces in which a step is computed, to save memory; must divide batch_size.",
    )
    max_length: Annotated[int, Field(ge=8)] = Field(
        default=2048,
        description="Maximum tokens of a sequence; longer documents are cut, longer pairs refused.",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description=(
            "Whether each block is computed again in the backward pass instead of being kept: the same "
            "losses, less memory, more time."
        ),
    )
    precision: WeightPrecision = Field(
        default="fp32",
        description=(
            "How weights are held while training: float32, bfloat16, or bfloat16 with stochastic rounding."
        ),
    )
    optimizer: OptimizerName = Field(
        default="adamw",
        description=(
            "AdamW with float32 moments, or with moments of 8 or 4 bits (a quarter or an eighth of "
            "their memory; extra `torchao`)."
        ),
    )
    weight_decay: NonNegativeFloat = Field(default=0.0, description="Decoupled weight decay of AdamW.")
    max_grad_norm: PositiveFloat = Field(
        default=1.0, description="The norm to which gradients are clipped."
    )
    betas: tuple[Beta, Beta] = Field(
        default=(0.9, 0.999), description="Decay rates of AdamW's two moments, each at least 0 and below 1."
    )
    schedule: Literal["constant", "linear", "cosine", "stable_decay"] = Field(
        default="constant",
        description=(
            "The learning rate after the warm-up; `stable_decay` holds it constant and lets it "
            "fall to zero over the last 45 % of the steps."
        ),
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Steps over which the learning rate rises linearly from 0."
    )
    append_eos: bool | None = Field(
        default=None,
        description="Whether texts end with the end token; null: answers do, documents do not.",
    )
    save_every: PositiveInt = Field(
        default=1,
        description="Epochs between two checkpoints from which an interrupted run can be resumed.",
    )
    report_to: tuple[str, ...] = Field(
        default=(), description="Trackers of `transformers` that receive the log (tensorboard, wandb, ...)."
    )

    @model_validator(mode="after")
    def _pieces_fit(self) -> LoopSettings:
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} does not split into {self.accumulation} equal pieces"
            )
        return self

    @field_validator("optimizer")
    @classmethod
    def _optimizer_is_there(cls, name: OptimizerName) -> OptimizerName:
        require_moments(name)
        return name

    @field_validator("report_to")
    @classmethod
    def _reporters_are_there(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in INTEGRATION_TO_CALLBACK:
                raise ValueError(f"no {name!r} is known, only {', '.join(sorted(INTEGRATION_TO_CALLBACK))}")
            if name not in get_available_reporting_integrations():
                raise ValueError(f"{name} is not installed")
        return names

    def epochs_over(self, examples: int) -> int:
        """The number of epochs that a run over the given number of examples begins."""
        if self.max_steps is None:
            return self.epochs
        return min(self.epochs, math.ceil(self.max_steps / math.ceil(examples / self.batch_size)))

    def examples_over(self, examples: int) -> int:
        """The number of examples that a run over the given number visits, epoch after epoch."""
        if self.max_steps is None:
            return self.epochs * examples
        epochs, steps = divmod(self.max_steps, math.ceil(examples / self.batch_size))
        if epochs >= self.epochs:
            return self.epochs * examples
        return epochs * examples + steps * self.batch_size

    def training_arguments(self, folder: Path, *, seed: int, examples: int) -> TrainingArguments:
        """The same settings as arguments of the training loop, for epochs of the given number of examples.

        Checkpoints go to ``folder`` by epoch. ``stable_decay`` holds the learning rate and lets it
        fall to zero over the last ``DECAY_SHARE`` of the steps.
        """
        epochs = self.epochs_over(examples)
        steps = math.ceil(examples / self.batch_size) * epochs
        if self.max_steps is not None:
            steps = min(steps, self.max_steps)
        device = best_device()
        arguments = TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=self.batch_size // self.accumulation,
            gradient_accumulation_steps=self.accumulation,
            num_train_epochs=epochs,
            max_steps=-1 if self.max_steps is None else steps,
            learning_rate=self.learning_rate,
            adam_beta1=self.betas[0],
            adam_beta2=self.betas[1],
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
            lr_scheduler_type=SCHEDULES[self.schedule],
            lr_scheduler_kwargs=(
                {"num_decay_steps": round(DECAY_SHARE * steps)} if self.schedule == "stable_decay" else None
            ),
            warmup_steps=self.warmup_steps,
            bf16=computes_in_bf16(self.precision, device),
            gradient_checkpointing=self.gradient_checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            seed=seed,
            logging_strategy="epoch",
            save_strategy="no",
            disable_tqdm=not sys.stderr.isatty() or NO_BARS in os.environ,
            report_to=list(self.report_to) or "none",
            remove_unused_columns=False,
            dataloader_num_workers=0,
            dataloader_pin_memory=device.type == "cuda",
            use_cpu=device.type == "cpu",
        )
        arguments._n_gpu = min(1, arguments.n_gpu)  # or the trainer splits every batch over all of them
        return arguments
