"""What a grid does to an unlearning update, read from the weights before anything is generated."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from expunge.audit.plan import Loader, Transform
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
    record = Path(getattr(model, "name_or_path", "")) / "record.json"
    if not record.is_file():
        return None, None
    stages = json.loads(record.read_text(encoding="utf-8")).get("recipe", {}).get("stages", [])
    trained = [stage for stage in stages if "learning_rate" in stage]
    if not trained:
        return None, None
    return trained[-1]["learning_rate"], trained[-1]["precision"]
