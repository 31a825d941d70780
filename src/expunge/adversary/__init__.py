"""What disturbs the model while it forgets, so that forgetting holds where it is deployed: one file each.

A member changes the model inside a ``with`` block around the forget loss: its weights (rounding, a
worst direction) or its hidden states (a latent attack). Forward and backward pass both happen inside
the block, so a member may change whatever the loss reads; the gradient found there is the one the
undisturbed weights are stepped with. The caller keeps gradients, random numbers and
training mode as they were (``untouched``); the member puts back what it changed, bit for bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from expunge.component import Component
from expunge.corpus.batching import Batch
from expunge.registry import Registry

Rounding = Callable[[Tensor], Tensor]
"""From a weight [O, I] to what a deployed format makes of it, [O, I] in a wide dtype."""


class LossWeights(NamedTuple):
    """How much the forget loss counts as it is, and how much under the adversary."""

    plain: float
    perturbed: float


@dataclass(frozen=True, kw_only=True)
class AdversaryBatch:
    """One piece of a step: its forget batch, and its forget loss (a sum) at the model as it then is."""

    batch: Batch
    loss: Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimizer step as an adversary sees it.

    ``rows`` names what may change: parameters, each with ``None`` (all of it) or a bool mask of its
    rows. ``roundings`` holds what the adversary asked for as ``formats``. ``done`` steps came before it.
    ``reads`` is the block whose output the forget loss reads, where it reads one inside the model.
    """

    model: nn.Module
    pieces: Sequence[AdversaryBatch]
    rows: Mapping[str, Tensor | None]
    roundings: Mapping[str, Rounding] = field(default_factory=dict)
    done: int = 0
    reads: int | None = None


Perturb = Callable[[AdversaryBatch], AbstractContextManager[None]]
"""From a piece of the step to the block its forget loss is computed in."""


class Adversary(Component, ABC):
    """Base of all adversaries; its fields are its settings.

    What holds for a whole step (a direction of all weights, their rounding) is found once, in
    ``prepare``; what belongs to one piece (an attack on its hidden states) when its block is entered.
    So a step in eight pieces is the same as a step in one.
    """

    requires_fp32: ClassVar[bool] = False
    """Whether the disturbance is finer than bfloat16 weights can hold."""

    @property
    def formats(self) -> tuple[str, ...]:
        """Short names of the deployed formats whose rounding it must be given."""
        return ()

    @abstractmethod
    def shares(self, done: int, steps: int) -> LossWeights:
        """The mixture of the step after ``done`` of ``steps``; nothing perturbed is the plain method."""

    @abstractmethod
    def prepare(self, step: Step) -> Perturb:
        """Prepare for one step."""


adversaries: Registry[Adversary] = Registry("adversary", "expunge.adversary")
