"""The effect of a quantization grid on an unlearning update, computed from the weights alone."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from expunge.audit.checkpoint import Checkpoint
from expunge.audit.plan import Loader
from expunge.condition import Condition
from expunge.files import RECORD
from expunge.model.precision import WeightPrecision
from expunge.model.tensors import Weights
from expunge.parsing import load_json
from expunge.quant.base import Quantizer
from expunge.quant.buckets import diagnose as compare_weights
from expunge.quant.plain import NotAPairError


def diagnose(load_target: Loader, model: nn.Module, condition: Condition) -> dict[str, Any]:
    """Bucket diagnostics of the pair (target, ``model``) under ``condition``, and what they predict.

    Empty for conditions that are not quantizers, such as full precision; for a target of another
    architecture, only the reason why the two cannot be compared. The target's tensors are read from its
    files one at a time if it is a local folder. Learning rate and weight precision are taken from the
    record in the checkpoint's folder if expunge wrote it.
    """
    if not isinstance(condition, Quantizer):
        return {}
    name = str(getattr(model, "name_or_path", ""))
    return compared(weights_of(load_target), model, condition, Path(name))


def compared(
    target: nn.Module | Weights, model: nn.Module | Weights, quantizer: Quantizer, folder: Path
) -> dict[str, Any]:
    """The diagnostics as JSON; ``folder`` is where the unlearned model came from."""
    lr, precision = training_of(folder)
    try:
        return compare_weights(target, model, quantizer, lr=lr, precision=precision).to_dict()
    except NotAPairError as error:
        why = f"not comparable with the target: {error.why}"
        return {"comparable": False, "why_not": why, "quantizer": quantizer.label, "prediction": None}


def weights_of(load: Loader) -> nn.Module | Weights:
    """A model's weights from its files, or the loaded model where they cannot be read one by one."""
    weights = load.weights() if isinstance(load, Checkpoint) else None
    return _loaded(load)[0] if weights is None else weights


@lru_cache(maxsize=1)
def _loaded(load: Loader) -> tuple[nn.Module, Any]:
    return load()


def training_of(folder: Path) -> tuple[float | None, WeightPrecision | None]:
    """Learning rate and weight precision of the last stage that trained a checkpoint, if it says."""
    trained = [stage for stage in _stages_of(folder) if stage.keys() >= {"learning_rate", "precision"}]
    if not trained:
        return None, None
    return trained[-1]["learning_rate"], trained[-1]["precision"]


def _stages_of(folder: Path) -> list[dict[str, Any]]:
    """The stages of the recipe that made a checkpoint; empty without a valid record."""
    path = folder / RECORD
    if not path.is_file():
        return []
    try:
        record = load_json(path.read_bytes())
    except ValueError:
        return []
    recipe = record.get("recipe") if isinstance(record, dict) else None
    stages = recipe.get("stages") if isinstance(recipe, dict) else None
    return [stage for stage in stages if isinstance(stage, dict)] if isinstance(stages, list) else []
