"""Low-rank adapters as a scope, alone or inside another scope."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, PositiveInt

from expunge.errors import MissingExtraError, RecipeError
from expunge.model.arch import architecture, unwrap
from expunge.scope import Saliency, Scope, scopes
from expunge.scope.selection import Selection

if TYPE_CHECKING:
    from torch import Tensor, nn


@scopes.register("lora")
class LowRankAdapters(Scope):
    """``W + (alpha / rank) B A`` on every linear layer inside the blocks; merged before quantizing.

    Source: Hu et al. 2022 (arXiv 2106.09685); for unlearning that survives quantization,
    Abitante et al. 2026 (arXiv 2602.13151).
    """

    rank: PositiveInt = Field(default=16, description="Rank of the adapters.")
    alpha: float = Field(
        default=16.0, gt=0, description="Scale of the adapters: the update is multiplied by alpha / rank."
    )
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Dropout on the adapters' input, at least 0 and below 1."
    )
    targets: str = Field(
        default="all-linear",
        description=(
            "The layers with an adapter: all-linear, or a regular expression that must match the "
            "whole name."
        ),
    )

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


# Low-rank adapters whose updates stay inside another scope: two scopes, one within the other.

BASE = ".base_layer.weight"
"""How the name of a weight ends whose layer wears an adapter."""


def _dumped(scope: Scope) -> dict[str, Any]:
    return {"name": scopes.name_of(scope), **scope.model_dump()}


@scopes.register("lora_within")
class AdaptersWithin(LowRankAdapters):
    """``W + (alpha / rank) B A`` only where another scope lets W change; SURE with adapters, for instance.

    A whole tensor keeps its adapter. Of some rows of W only those rows of B may change, so that the
    update is zero in all others. What the scope selects and no adapter covers (norms, embeddings) stays
    as it is. The saliency is that of the weights before any update, adapters count for nothing in it.
    Ours: two published scopes in one.
    """

    within: Annotated[Scope, BeforeValidator(scopes.build), PlainSerializer(_dumped)] = Field(
        description="The scope that says where the merged weights may change."
    )

    def select(self, model: nn.Module, saliency: Saliency) -> Selection:
        def of_the_weights() -> Mapping[str, Tensor]:
            inner = {id(weight): name for name, weight in unwrap(model).named_parameters()}
            weights = dict(model.named_parameters())
            return {
                inner[id(weights[name])]: slope
                for name, slope in saliency().items()
                if ".lora_" not in name
            }

        allowed = self.within.select(unwrap(model), of_the_weights).rows
        by_layer = {name.removesuffix(BASE): rows for name, rows in allowed.items() if name.endswith(BASE)}
        self._check(model, by_layer)
        return Selection(dict(_adapters(model, by_layer)))

    def _check(self, model: nn.Module, by_layer: Mapping[str, Tensor | None]) -> None:
        if not by_layer:
            raise RecipeError(
                f"adapters within scope {scopes.name_of(self.within)!r}",
                why="it selects no weight of a layer with an adapter.",
                fix="Widen it, or the adapters' targets.",
            )
        if architecture(model).transposed and any(rows is not None for rows in by_layer.values()):
            raise RecipeError(
                "adapters within rows of weights",
                why="this model stores its weights by input, and an adapter cannot leave inputs out.",
                fix="Set scope.within.granularity to tensor or sublayer.",
            )


def _adapters(model: nn.Module, by_layer: Mapping[str, Tensor | None]) -> Mapping[str, Tensor | None]:
    """The adapters of these layers: A as a whole, B by the rows of W."""
    inner = {id(weight): name for name, weight in unwrap(model).named_parameters()}
    adapters: dict[str, Tensor | None] = {}
    for name, weight in model.named_parameters():
        layer, is_adapter, kind = inner[id(weight)].partition(".lora_")
        if is_adapter and layer in by_layer:
            adapters[name] = by_layer[layer] if kind.startswith("B") else None
    return adapters
