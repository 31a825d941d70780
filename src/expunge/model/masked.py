"""Masked language models: they read a whole sentence and fill in the token that was blanked out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from expunge.errors import ModelError
from expunge.model.arch import unwrap

MASKED = "ForMaskedLM"
"""How the names of their classes end."""


def is_masked(model: nn.Module) -> bool:
    """Whether a model is a masked language model, which fills in blanks and cannot continue a text."""
    return type(unwrap(model)).__name__.endswith(MASKED)


def declares_masked(config: Any) -> bool:
    """Whether a configuration, or what config.json holds, is of a model that fills in blanks."""
    stated = config if isinstance(config, dict) else vars(config)
    named = stated.get("architectures")
    return isinstance(named, list) and any(str(name).endswith(MASKED) for name in named)


def auto_class(config: AutoConfig) -> Any:
    """What loads a checkpoint of this configuration."""
    return AutoModelForMaskedLM if declares_masked(config) else AutoModelForCausalLM


def refuse_masked(path_or_id: str | Path) -> ModelError:
    """Why a masked language model cannot be had where texts are gone on with."""
    return ModelError(
        f"{path_or_id} is a masked language model",
        why="it is a masked language model, and this needs one that generates text.",
        fix="'expunge unlearn --recipe pcgu' removes bias from such a model, and 'expunge audit --metric "
        "stereotype --metric meaningful' audits it.",
    )
