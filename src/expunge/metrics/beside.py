"""Metrics that compare a model's distributions with the retrained model's, token by token."""

from __future__ import annotations

import json
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from expunge.files import write_with
from expunge.metrics.base import Metric, absent
from expunge.score.states import Head, States

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from expunge.metrics.base import Measured
    from expunge.metrics.probes import Probes
    from expunge.score.observer import Observer

NO_WITNESS = "only an audit with a retrained model measures it: it reads that model's distributions"


@dataclass(frozen=True, slots=True)
class Witness:
    """What the retrained model was at every token asked about: its states, and the head behind them."""

    states: list[States]
    head: Head

    def save(self, path: Path) -> None:
        """Write it as one file, whole or not at all."""
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {"weight": self.head.weight_VH}
        if self.head.bias_V is not None:
            tensors["bias"] = self.head.bias_V
        for place, (token_n, hidden_nH) in enumerate(self.states):
            tensors |= {f"token {place}": token_n, f"hidden {place}": hidden_nH}
        facts = json.dumps([len(self.states), self.head.divisor, self.head.softcap])
        write_with(
            path, lambda scratch: save_file(tensors, scratch, metadata={"facts": facts}), private=True
        )

    @classmethod
    def read(cls, path: Path) -> Witness:
        """What ``save`` wrote."""
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            count, divisor, softcap = json.loads(file.metadata()["facts"])
            states = [
                States(file.get_tensor(f"token {place}"), file.get_tensor(f"hidden {place}"))
                for place in range(count)
            ]
            bias_V = file.get_tensor("bias") if "bias" in file.keys() else None  # noqa: SIM118
            weight_VH = file.get_tensor("weight")
        return cls(states, Head(weight_VH=weight_VH, bias_V=bias_V, divisor=divisor, softcap=softcap))


class BesideControl(Metric):
    """Base: an audit lets the retrained model be a ``witness`` under each transform, then measures others.

    The two models are never in memory together.
    """

    needs_control: ClassVar[bool] = True
    is_share: ClassVar[bool] = False
    default: ClassVar[bool] = False

    @abstractmethod
    def witness(self, observed: Observer, probes: Probes) -> Witness:
        """What ``measure_beside`` reads of the retrained model."""

    @abstractmethod
    def measure_beside(self, observed: Observer, probes: Probes, witness: Witness) -> Measured:
        """The score of every item of a model beside the retrained one."""

    def measure(self, observed: Observer, probes: Probes) -> Measured:  # noqa: ARG002
        """Nothing: one model alone has no distance."""
        return absent(self.needs_splits[0], NO_WITNESS)
