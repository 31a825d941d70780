"""Models with random weights from a configuration, and new tokens for trained models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import psutil
import torch
from pydantic import Field, PositiveInt, model_validator
from torch import nn
from torch.distributions import Laplace
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from expunge.component import Component
from expunge.errors import ModelError
from expunge.model.arch import linear_layers


@torch.no_grad()
def add_tokens(model: nn.Module, tokenizer: Any, names: Sequence[str], *, seed: int) -> list[int]:
    """Make ``names`` special tokens of model and tokenizer; their ids, in the order of the names.

    A new row of the embedding, and of an output head that is not tied to it, is drawn for each
    dimension from a normal distribution with mean and deviation of the rows that were there.
    Source: Lu et al. 2022 (arXiv 2205.13636), released code.

    Raises:
        ModelError: a name is a token already.
    """
    known = tokenizer.get_vocab()
    for name in names:
        if name in known:
            raise ModelError(
                f"token {name!r}",
                why="this model's tokenizer already has it, so it already has a meaning.",
                fix="Start from a checkpoint that has not been through this method.",
            )
    before = len(tokenizer)
    tokenizer.add_tokens(list(names), special_tokens=True)
    ids: list[int] = tokenizer.convert_tokens_to_ids(list(names))
    inner: Any = model
    rows = inner.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        inner.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    draw = torch.Generator().manual_seed(seed)
    layers = {
        id(layer.weight): layer for layer in (inner.get_input_embeddings(), inner.get_output_embeddings())
    }
    for layer in layers.values():
        weight_VH = layer.weight
        old_VH = weight_VH[:before].float()
        noise = torch.randn(len(ids), weight_VH.shape[1], generator=draw).to(weight_VH.device)
        weight_VH[ids] = (old_VH.mean(0) + old_VH.std(0) * noise).to(weight_VH.dtype)
    return ids


# A model from a configuration, with random weights: where targets trained from scratch begin.

TRAINED_BYTES = 16
"""Of each weight while it is trained: itself, its gradient and two moments, in float32."""


class ScratchModel(Component):
    """A small Llama to be trained from nothing."""

    hidden: PositiveInt = Field(default=256, description="Hidden units.")
    layers: Annotated[int, Field(ge=1, le=1000)] = Field(default=2, description="Blocks, 1-1,000.")
    heads: PositiveInt = Field(
        default=8, description="Attention heads; hidden must split into heads of even width."
    )
    vocabulary: PositiveInt = Field(default=1024, description="Tokens of the vocabulary that is trained.")
    context: PositiveInt = Field(default=1024, description="The longest text, in tokens.")
    initializer_range: float = Field(
        default=0.02, gt=0, description="Standard deviation of the initial weights."
    )
    tails: Literal["normal", "laplace"] = Field(
        default="normal",
        description="The distribution of the initial weights of linear layers inside blocks.",
    )

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.hidden % (2 * self.heads):  # rotary positions turn pairs of dimensions
            raise ValueError(f"hidden {self.hidden} does not split into {self.heads} heads of even width")
        return self

    @property
    def width(self) -> int:
        """The inner width of an MLP."""
        return round(self.hidden * 8 / 3 / 16) * 16

    def _refuse_too_large(self, vocabulary: int) -> None:
        block = self.hidden * (4 * self.hidden + 3 * self.width)
        count = self.layers * block + 2 * vocabulary * self.hidden
        needed, free = TRAINED_BYTES * count, psutil.virtual_memory().available
        if needed > free:
            raise ModelError(
                f"a model of {count / 1e9:,.1f} billion weights",
                why=f"training it takes {needed / 2**30:,.0f} GiB, and {free / 2**30:,.0f} GiB are free.",
                fix="Choose a smaller --size hidden=... or layers=...",
            )

    def create(self, tokenizer: Any, *, seed: int) -> PreTrainedModel:
        """The model with random weights drawn from ``seed``; the global random state stays as it was.

        Raises:
            ModelError: there is not the memory to train it.
        """
        self._refuse_too_large(len(tokenizer))
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden,
            intermediate_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=self.context,
            initializer_range=self.initializer_range,
            tie_word_embeddings=False,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            if self.tails == "laplace":
                self._redraw(model)
        return model.eval()

    def _redraw(self, model: PreTrainedModel) -> None:
        """Linear layers inside blocks from a Laplace distribution of the same standard deviation."""
        drawn = Laplace(0.0, self.initializer_range / math.sqrt(2))
        for layer in linear_layers(model).values():
            weight = layer.get_parameter("weight")
            weight.data.copy_(drawn.sample(weight.shape))
