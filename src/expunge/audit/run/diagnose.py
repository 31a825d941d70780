"""The effect of quantizers on an update, from the weights alone (``expunge audit --weights``)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from expunge.audit.run.plan import Loader
from expunge.condition import Condition
from expunge.errors import RecipeError
from expunge.files import RECORD, claiming, local_folder, refuse_existing, replaced_by, write_json, writing
from expunge.model.load import load_model, load_tokenizer
from expunge.model.precision import WeightPrecision
from expunge.model.resources import best_device
from expunge.model.tensors import Weights, on_disk
from expunge.parsing import load_json
from expunge.quant import parse_quantizer
from expunge.quant.base import Quantizer
from expunge.quant.buckets import diagnose as compare_weights
from expunge.quant.plain import NotAPairError
from expunge.record import Stopwatch, make_record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder, or a name on the Hub. Calling it loads the model on the best device, and its tokenizer.

    ``masked``: masked language models are allowed.
    """

    path: str
    trust_remote_code: bool = False
    masked: bool = False

    def __call__(self) -> tuple[nn.Module, Any]:
        """The model and its tokenizer."""
        model = load_model(
            self.path,
            device=best_device(),
            trust_remote_code=self.trust_remote_code,
            masked=self.masked,
        )
        tokenizer = load_tokenizer(self.path, model=model, trust_remote_code=self.trust_remote_code)
        return model, tokenizer

    def weights(self) -> Weights | None:
        """Its weights, read one at a time; ``None`` where that cannot be done."""
        folder = local_folder(self.path)
        return None if folder is None else on_disk(folder)


RESULT = "weights.json"
COLUMNS = {
    "same codes": "same_share",
    "on its scale": "same_on_target_share",
    "erased": "erased_share",
    "can move": "movable_share",
    "in zero": "movable_in_zero_share",
    "critical lr": "critical_lr",
    "survives": "surviving",
}
"""The fields of the total that the table shows, by heading."""
MEANING = """\
same codes    share of codes equal to the target's, each model on its own scale
on its scale  the same with both on the target's scale
erased        share of the changed weights that round to the target's code
can move      share of the weights that training could change at all
in zero       share of these that the grid rounds to zero
critical lr   below it, bf16 training only changes weights in the zero bucket
survives      share of the update that remains after rounding"""


@dataclass(frozen=True, kw_only=True)
class WeightsJob:
    """A comparison of checkpoints with the target's weights."""

    models: Sequence[str]
    target: str | None
    quantizers: Sequence[str]
    output: Path
    trust_remote_code: bool = False

    def run(self, report: Callable[[str], None] = lambda _: None) -> list[dict[str, Any]]:
        """The diagnostics of each model under each quantizer, written to ``weights.json``.

        Raises:
            RecipeError: there is no target, no model or no quantizer.
        """
        if self.target is None or not self.models or not self.quantizers:
            raise RecipeError(
                "--weights",
                why="it compares the weights of models with the target's, under quantizers.",
                fix="Name the models, --target and at least one quantizer, such as -q int4.",
            )
        quantizers = [parse_quantizer(name) for name in self.quantizers]
        with claiming(self.output):
            overwrite = (self.output / RESULT).is_file()
            refuse_existing(self.output, overwrite=overwrite)
            return self._compared(self.target, quantizers, report, overwrite=overwrite)

    def _compared(
        self,
        target_path: str,
        quantizers: Sequence[Quantizer],
        report: Callable[[str], None],
        *,
        overwrite: bool,
    ) -> list[dict[str, Any]]:
        watch = Stopwatch()
        target = weights_of(Checkpoint(target_path, self.trust_remote_code))
        found = []
        for path in self.models:
            model = weights_of(Checkpoint(path, self.trust_remote_code))
            for quantizer in quantizers:
                report(f"{path} · {quantizer.label}")
                found.append({"model": path} | compared(target, model, quantizer, Path(path)))
        record = make_record(command="audit --weights", watch=watch, target=self.target, models=self.models)
        with writing(self.output, may_replace=replaced_by(overwrite=overwrite)) as folder:
            folder.mkdir()
            write_json(folder / RESULT, found)
            write_json(folder / RECORD, record)
        return found


def table(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The totals as rows of text, a header first."""
    rows = [("model", "quantizer", *COLUMNS, "predicts")]
    for row in found:
        total = row.get("total")
        cells = [_shown(name, total[name]) if total else "–" for name in COLUMNS.values()]
        predicts = row["prediction"] or row.get("why_not", "–")
        rows.append((row["model"], row["quantizer"], *cells, predicts))
    return rows


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return format(value, {"critical_lr": ".1e", "surviving": ".2f"}.get(name, ".2%"))


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
