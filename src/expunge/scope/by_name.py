"""Scopes that choose parameters by name: all, those that match a pattern, the MLPs' output projections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import regex  # type: ignore[import-untyped]
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from expunge.errors import RecipeError
from expunge.inference.hidden_states import block_of
from expunge.model.arch import architecture, blocks
from expunge.scope import Saliency, Scope, scopes
from expunge.scope.selection import Selection

if TYPE_CHECKING:
    from torch import nn


LONGEST_SEARCH = 2.0
"""Seconds a pattern may look at one name: patterns can take time that grows exponentially with it."""


@scopes.register("all")
class AllParameters(Scope):
    """The whole model, as most papers train it."""

    def select(self, model: nn.Module, saliency: Saliency) -> Selection:  # noqa: ARG002
        return Selection({name: None for name, _ in model.named_parameters()})


@scopes.register("regex")
class MatchingNames(Scope):
    r"""Parameters whose name matches a pattern, for instance ``mlp\.down_proj``."""

    pattern: str = Field(description="A regular expression that must be found in a parameter's name.")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            regex.compile(pattern)
        except regex.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return pattern

    def select(self, model: nn.Module, saliency: Saliency) -> Selection:  # noqa: ARG002
        names = [name for name, _ in model.named_parameters()]
        matching = [name for name in names if self._is_in(name)]
        if not matching:
            raise RecipeError(
                f"scope pattern {self.pattern!r}",
                why="it matches no parameter of this model.",
                fix=f"Its parameters look like {names[0]!r} and {names[-1]!r}.",
            )
        return Selection(dict.fromkeys(matching))

    def _is_in(self, name: str) -> bool:
        try:
            return regex.search(self.pattern, name, timeout=LONGEST_SEARCH) is not None
        except TimeoutError as error:
            raise RecipeError(
                f"scope pattern {self.pattern!r}",
                why=f"it takes more than {LONGEST_SEARCH:g} s on {name!r}: its repetitions are nested.",
                fix="Write it without a repetition inside another, such as (a+)+.",
            ) from error


@scopes.register("mlp_out")
class MLPOut(Scope):
    """The output weights of the MLPs of a few neighbouring blocks.

    Source: Li et al. 2024 (arXiv 2403.03218), App. B: three blocks, ``down_proj`` alone.
    """

    layer: NonNegativeInt | None = Field(
        default=None,
        description=(
            "The last of the blocks, from 0; null: 7/32 of the depth, as in the losses that read a block."
        ),
    )
    depth: PositiveInt = Field(default=3, description="How many blocks, `layer` and those before it.")

    def select(self, model: nn.Module, saliency: Saliency) -> Selection:  # noqa: ARG002
        last = block_of(model, self.layer)
        if last >= len(blocks(model)):
            raise RecipeError(
                f"scope mlp_out at block {last}",
                why=f"this model has blocks 0 to {len(blocks(model)) - 1}.",
                fix="Choose one of them.",
            )
        arch = architecture(model)
        wanted = {
            f"{arch.blocks}.{block}.{arch.mlp}.{arch.mlp_out}.weight"
            for block in range(max(0, last - self.depth + 1), last + 1)
        }
        return Selection(dict.fromkeys(name for name, _ in model.named_parameters() if name in wanted))
