"""Text a quantizer is calibrated on: the tokens a model reads, where they come from, and their hash."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from expunge.errors import RecipeError
from expunge.record import hash_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """N sequences of T tokens for one model.

    ``name``: ``self``, ``retain``, ``forget`` or the path of a file. ``ids_NT``: int64, no padding.
    """

    name: str
    ids_NT: Tensor
    seed: int = 0

    def __str__(self) -> str:
        samples, length = self.ids_NT.shape
        return f"{samples} x {length} tokens of {self.name}, seed {self.seed}"

    @property
    def hash(self) -> str:
        """SHA-256 over the tokens: other text, other hash."""
        return hash_json(self.ids_NT.tolist())

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without the tokens."""
        samples, length = self.ids_NT.shape
        facts = {"name": self.name, "samples": samples, "length": length, "seed": self.seed}
        return facts | {"tokens_sha256": self.hash}


def require_calibration(label: str, calibration: Calibration | None) -> Calibration:
    """The calibration a quantizer needs.

    Raises:
        RecipeError: there is none.
    """
    if calibration is None:
        raise RecipeError(
            f"{label} without calibration text",
            why="it decides how to round by what the model's layers are given to read.",
            fix="Pass --calibrate self, retain, forget or a file of text.",
        )
    return calibration
