"""General ability by the tasks of ``lm-eval``, from a folder: task files and their data, no network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import PositiveInt, computed_field, field_validator

from expunge.metrics import metrics
from expunge.metrics.base import Metric, absent
from expunge.metrics.harness import run_tasks
from expunge.record import hash_file, hash_json
from expunge.types import Score

if TYPE_CHECKING:
    from collections.abc import Mapping

    from expunge.metrics.base import Measured
    from expunge.metrics.probes import Probes
    from expunge.score.observer import Observer

SPLIT = "general"
COMPILED = "__pycache__"


@metrics.register("general")
class General(Metric):
    """What ``lm-eval`` measures of each item of the tasks in a folder; the mean over all items.

    ``tasks`` is a folder with task files (YAML) and their data, in which paths are taken from there; Python
    that a task file names is run. ``score`` is the number taken of each item: ``acc``, ``acc_norm``,
    ``exact_match``, ... At most ``limit`` items are asked of each task. Prompts, solved questions and
    decoding are as the task file has them; how an item is scored is lm-eval's own.

    Source: Gao et al. 2021, "A framework for few-shot language model evaluation".
    """

    title: ClassVar[str] = "General ability by lm-eval"
    definition: ClassVar[str] = "mean over the items of the tasks in a folder, as lm-eval scores them"
    source: ClassVar[str] = "Language Model Evaluation Harness (lm-eval)"
    scale: ClassVar[str] = "0-1"
    lower_is_better: ClassVar[bool | None] = False
    needs_splits: ClassVar[tuple[str, ...]] = ()
    default: ClassVar[bool] = False
    misleads: ClassVar[str] = (
        "Items are pooled, so long tasks outweigh short ones. A task of choices has a floor at chance: a "
        "ruined model keeps a quarter of four choices."
    )

    tasks: str | None = None
    score: str = "acc"
    limit: PositiveInt | None = None
    batch_size: PositiveInt = 8

    @field_validator("tasks")
    @classmethod
    def _is_there(cls, tasks: str | None) -> str | None:
        if tasks is not None and not Path(tasks).is_dir():
            raise ValueError("there is no such folder")
        return tasks

    @computed_field  # type: ignore[prop-decorator]
    @property
    def content(self) -> str:
        """SHA-256 of what the folder holds: other tasks or data, other scores. Empty without one."""
        if self.tasks is None:
            return ""
        folder = Path(self.tasks)
        files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != COMPILED)
        return hash_json({path.relative_to(folder).as_posix(): hash_file(path) for path in sorted(files)})

    def measure(self, observed: Observer, probes: Probes) -> Measured:  # noqa: ARG002
        """Run every task of the folder once."""
        if self.tasks is None:
            return absent(SPLIT, "no folder of tasks is named: --metric general:tasks=FOLDER")
        samples = run_tasks(observed, Path(self.tasks), limit=self.limit, batch_size=self.batch_size)
        return {SPLIT: [self._scored(task, each) for task, found in samples.items() for each in found]}

    def _scored(self, task: str, sample: Mapping[str, Any]) -> Score:
        item, value = f"{task}/{sample['doc_id']}", sample.get(self.score)
        if isinstance(value, bool | int | float):
            return Score(item=item, value=float(value))
        known = ", ".join(sample["metrics"])
        return Score(
            item=item, value=None, unscored=f"the task measures {known} of an item, not {self.score}"
        )
