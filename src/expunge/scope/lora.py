"""Only low-rank adapters change; the base weights stay as they are until the adapters are merged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt

from expunge.errors import MissingExtraError, RecipeError
from expunge.model.arch import architecture
from expunge.scope import Saliency, Scope, scopes
from expunge.scope.selection import Selection

if TYPE_CHECKING:
    from torch import nn


@scopes.register("lora")
class LowRankAdapters(Scope):
    """``W + (alpha / rank) B A`` on every linear layer inside the blocks; merged before quantizing.

    Source: Hu et al. 2022 (arXiv 2106.09685); for unlearning that survives quantization,
    Abitante et al. 2026 (arXiv 2602.13151).
    """

    rank: PositiveInt = 16
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: str = "all-linear"

    def prepare(self, model: nn.Module) -> nn.Module:
        try:
            from peft import LoraConfig, get_peft_model
        except ModuleNotFoundError as error:
            raise MissingExtraError("the lora scope", extra="lora") from error
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.targets,
            fan_in_fan_out=architecture(model).transposed,
            task_type="CAUSAL_LM",
        )
        try:
            wrapped: nn.Module = get_peft_model(model, config)
        except ValueError as error:
            raise RecipeError(
                f"lora targets {self.targets!r}",
                why="no layer of this model can take an adapter there.",
                fix=r"Write all-linear, or a pattern such as .*\.(q_proj|v_proj).",
            ) from error
        return wrapped

    def select(self, model: nn.Module, saliency: Saliency) -> Selection:  # noqa: ARG002
        return Selection({name: None for name, _ in model.named_parameters() if "lora_" in name})
