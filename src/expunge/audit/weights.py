"""``expunge audit --weights``: the effect of quantizers on an update, from the weights alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.audit.checkpoint import Checkpoint
from expunge.audit.diagnose import compared, weights_of
from expunge.errors import RecipeError
from expunge.files import RECORD, claiming, refuse_existing, replaced_by, write_json, writing
from expunge.quant.parse import parse_quantizer
from expunge.record import Stopwatch, make_record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from expunge.quant.base import Quantizer

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
