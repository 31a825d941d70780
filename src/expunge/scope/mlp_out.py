"""The weights by which the MLPs of a few neighbouring blocks write: RMU's scope."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeInt, PositiveInt

from expunge.errors import RecipeError
from expunge.inference.hidden_states import block_of
from expunge.model.arch import architecture, blocks
from expunge.scope import Saliency, Scope, scopes
from expunge.scope.selection import Selection

if TYPE_CHECKING:
    from torch import nn


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
