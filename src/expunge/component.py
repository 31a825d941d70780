"""A component is its own configuration: frozen, keyword-only, validated, unknown keys refused.

A loss, a scope or a metric is one class in one file. Its fields are what a recipe may set, its
``__call__`` is what it does, so a configuration can never drift from the code it configures.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_EPOCHS, MAX_STEPS, MAX_DRAWS = 10_000, 10_000_000, 10_000
"""Far beyond any run that was ever meant; a slip of the keyboard would keep a machine busy for years."""
LARGEST = 2**53
"""Beyond it a JSON reader may round an integer, and libraries overflow."""

Epochs = Annotated[int, Field(gt=0, le=MAX_EPOCHS)]
"""How often data is gone through."""
Steps = Annotated[int, Field(gt=0, le=MAX_STEPS)]
"""How many steps of any kind are made."""
StepsOrNone = Annotated[int, Field(ge=0, le=MAX_STEPS)]
"""The same where none at all are an answer."""
Draws = Annotated[int, Field(gt=0, le=MAX_DRAWS)]
"""How many samples are drawn of each thing."""


class Component(BaseModel):
    """Base of everything a recipe can name."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _integers_are_exact(self) -> Self:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, int) and abs(value) > LARGEST:
                raise ValueError(f"{name} is an integer beyond ±2^53")
        return self
