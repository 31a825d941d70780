"""What a grid does to an unlearning update, read from the weights before anything is generated."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from expunge.audit.plan import Loader, Transform
from expunge.files import RECORD
from expunge.model.precision import WeightPrecision
from expunge.quant.base import Quantizer
from expunge.quant.buckets import diagnose as compare_weights


def diagnose(load_target: Loader, model: nn.Module, transform: Transform) -> dict[str, Any]:
    """Bucket diagnostics of the pair (target, ``model``) under ``transform``, and what they predict.

    Empty for what is not a quantizer, at full precision say. Learning rate and weight precision are
    taken from the record beside the checkpoint when expunge made it.
    """
    if not isinstance(transform, Quantizer):
        return {}
    lr, precision = _training_of(model)
    target, _ = _loaded(load_target)
    return compare_weights(target, model, transform, lr=lr, precision=precision).to_dict()


@lru_cache(maxsize=1)
def _loaded(load_target: Loader) -> tuple[nn.Module, Any]:
    return load_target()


def _training_of(model: nn.Module) -> tuple[float | None, WeightPrecision | None]:
    trained = [stage for stage in _stages_of(model) if stage.keys() >= {"learning_rate", "precision"}]
    if not trained:
        return None, None
    return trained[-1]["learning_rate"], trained[-1]["precision"]


def _stages_of(model: nn.Module) -> list[dict[str, Any]]:
    """The stages of the recipe that made a checkpoint; none where others left a file of that name."""
    path = Path(getattr(model, "name_or_path", "")) / RECORD
    if not path.is_file():
        return []
    try:
        record = json.loads(path.read_bytes())
    except ValueError:
        return []
    recipe = record.get("recipe") if isinstance(record, dict) else None
    stages = recipe.get("stages") if isinstance(recipe, dict) else None
    return [stage for stage in stages if isinstance(stage, dict)] if isinstance(stages, list) else []
