"""Two checkpoints that answer as one: what one of them likes better than the other is held back.

Who's Harry Potter needs a model reinforced on what must go only to know what to lower. Lowered while
serving, nothing is trained further and nothing is forgotten: both models stay in memory, and whoever
holds the folder holds them. It is a model like any other to what reads models (``load_model``, an audit,
``generate``), because it is one to ``transformers``: one configuration, one set of tensors, one cache,
whose first half is the base's. Adding it to every place that reads a model would touch all of them.

Shapes: B sequences, T positions, H hidden units of one of the two, V vocabulary.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Cache,
    DynamicCache,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.cache_utils import get_layer_types_and_kwargs
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from expunge.errors import ModelError
from expunge.model.arch import CONTRAST, output_head

Scores = Literal["logps", "logits"]
SIZES = (
    *("vocab_size", "max_position_embeddings", "num_attention_heads", "num_key_value_heads"),
    *("sliding_window", "attention_chunk_size"),
)
"""What readers of a configuration ask of it, the same for both models."""


ASIDE = (
    *("_name_or_path", "architectures", "dtype", "transformers_version", "use_cache"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "quantization_config"),
)
"""What a configuration says that changes no prediction."""


class ContrastConfig(PreTrainedConfig):
    """The configuration of both models (``member``), how much is held back (``alpha``), by which scores."""

    model_type = CONTRAST
    sub_configs = {"member": AutoConfig}  # noqa: RUF012 - as transformers declares it
    has_no_defaults_at_init = True

    alpha: float = 1.0
    scores: str = "logps"
    use_cache: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        member = kwargs.pop("member")
        if isinstance(member, dict):
            member = AutoConfig.for_model(**member)
        self.member = member
        layers, _ = get_layer_types_and_kwargs(member)
        # As a stack of both, so that a cache made for this configuration has room for both.
        kwargs |= {"num_hidden_layers": 2 * len(layers), "layer_types": [*layers, *layers]}
        kwargs |= {name: getattr(member, name, None) for name in SIZES}
        super().__post_init__(**kwargs)


class ContrastModel(PreTrainedModel, GenerationMixin):
    """``base − alpha · relu(reinforced − base)`` as next-token logits; two models in memory.

    The differences are of log-probabilities, or with ``scores="logits"`` of logits, which two models have
    up to a constant each. They are taken off the base's own logits: with ``alpha`` 0, and for every token
    that reinforcement did not raise, these stay bit for bit.

    Source: Eldan and Russinovich 2023 (arXiv 2310.02238), Eq. 1; without training after it: the baseline
    of Shi et al. 2024 (arXiv 2407.06460).
    """

    config_class = ContrastConfig
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(
        self,
        config: ContrastConfig,
        base: PreTrainedModel | None = None,
        reinforced: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(config)
        self.base = base or AutoModelForCausalLM.from_config(config.member)
        self.reinforced = reinforced or AutoModelForCausalLM.from_config(config.member)
        self.contrast = _Contrast(self.base, self.reinforced, config)
        self.post_init()

    @property
    def members(self) -> dict[str, nn.Module]:
        """The two by their names."""
        return {"base": self.base, "reinforced": self.reinforced}

    @property
    def base_model(self) -> nn.Module:
        """Both models without their heads: final hidden states side by side [B, T, 2H]."""
        return _Both(self.base.base_model, self.reinforced.base_model)

    def get_input_embeddings(self) -> nn.Module:
        """The base's, for what they say of the vocabulary."""
        embeddings: nn.Module = self.base.get_input_embeddings()
        return embeddings

    def get_output_embeddings(self) -> nn.Module:
        """What turns states of both [.., 2H] into logits [.., V]."""
        return self.contrast

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool = True,  # noqa: ARG002 - what generate asks for
    ) -> CausalLMOutputWithPast:
        """The logits of the last ``logits_to_keep`` positions, of all of them by default."""
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        read = self.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )
        logits_BTV = self.contrast(read.last_hidden_state[:, -logits_to_keep:])
        return CausalLMOutputWithPast(logits=logits_BTV, past_key_values=past_key_values)


class _Both(nn.Module):
    """Two backbones that read the same text, each with its own half of the cache."""

    def __init__(self, base: nn.Module, reinforced: nn.Module) -> None:
        super().__init__()
        self.members = nn.ModuleList([base, reinforced])

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
    ) -> BaseModelOutputWithPast:
        states = [
            member(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=half,
                use_cache=use_cache,
            ).last_hidden_state
            for member, half in zip(self.members, _halves(past_key_values), strict=True)
        ]
        return BaseModelOutputWithPast(
            last_hidden_state=torch.cat(states, dim=-1), past_key_values=past_key_values
        )


class _Contrast(nn.Module):
    """From the states of both models side by side [.., 2H] to the logits [.., V] they give together."""

    def __init__(self, base: nn.Module, reinforced: nn.Module, config: ContrastConfig) -> None:
        super().__init__()
        self.alpha = config.alpha
        self.scores = config.scores
        # A tuple: the heads are parameters of the models, and are counted there.
        self._members = (base, reinforced)

    def forward(self, both: Tensor) -> Tensor:
        base, raised = (
            output_head(member)(state)
            for member, state in zip(self._members, both.chunk(2, dim=-1), strict=True)
        )
        surplus = self._score(raised) - self._score(base)
        return (base - self.alpha * surplus.clamp(min=0)).to(base.dtype)

    def _score(self, logits: Tensor) -> Tensor:
        return logits.float().log_softmax(-1) if self.scores == "logps" else logits.float()


def _halves(cache: Cache | None) -> tuple[Cache | None, Cache | None]:
    """Views of the two halves of a cache: given the whole one, the second model would count twice."""
    if cache is None:
        return None, None
    half = len(cache.layers) // 2
    return Cache(layers=cache.layers[:half]), Cache(layers=cache.layers[half:])


def contrasted(
    base: PreTrainedModel, reinforced: PreTrainedModel, *, alpha: float, scores: Scores = "logps"
) -> ContrastModel:
    """The two as one model, which holds them and copies nothing.

    Raises:
        ModelError: they are not two states of one model.
    """
    if _built(base) != _built(reinforced):
        raise ModelError(
            "the two checkpoints are not of one model",
            why="their weights have other names or shapes, or their configurations differ.",
            fix="Pass a checkpoint, and the same one trained further on the forget set.",
        )
    # A copy: a model of models settles afresh how each of its parts computes attention.
    config = ContrastConfig(member=copy.deepcopy(base.config), alpha=alpha, scores=scores, dtype=base.dtype)
    model = ContrastModel(config, base, reinforced.to(base.device, base.dtype))
    model.generation_config = base.generation_config
    model.eval()
    return model


def _built(model: PreTrainedModel) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """What must be equal: the shapes of all weights, and what the configuration says of reading a text."""
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    return shapes, {key: value for key, value in model.config.to_dict().items() if key not in ASIDE}


AutoConfig.register(CONTRAST, ContrastConfig)
AutoModelForCausalLM.register(ContrastConfig, ContrastModel)
