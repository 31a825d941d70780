"""A component is its own configuration: frozen, keyword-only, validated, unknown keys refused.

A loss, a scope or a metric is one class in one file. Its fields are what a recipe may set, its
``__call__`` is what it does, so a configuration can never drift from the code it configures.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Epochs = Annotated[int, Field(gt=0, le=100_000)]
"""Times a set is gone through; a slip of the keyboard must not become a run of years."""


class Component(BaseModel):
    """Base of everything a recipe can name."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
