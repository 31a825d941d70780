"""General ability by the tasks of ``lm-eval``, from a folder and without a network."""

from __future__ import annotations

import contextlib
import copy
import io
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import Field, PositiveInt, computed_field, field_validator

from expunge.errors import DataError, MissingExtraError
from expunge.inference.backbone import eval_mode
from expunge.metrics import metrics
from expunge.metrics.base import Metric, not_applicable
from expunge.record import hash_file, hash_json
from expunge.types import Score

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from expunge.inference.observer import Observer
    from expunge.metrics.base import Measured
    from expunge.metrics.probes import Probes

Samples = dict[str, list[dict[str, Any]]]
"""What lm-eval keeps of every item, by task."""

LOADERS = frozenset({"json", "csv", "parquet", "text", "arrow"})
"""Loaders of ``datasets`` that read files."""

FEWSHOT_SEED = 1234
"""lm-eval's own default for the choice of solved questions, so that numbers are its own."""

HELP = (
    "A task file names data in its folder: dataset_path: json, dataset_kwargs: {data_files: {test: FILE}}."
)


def run_tasks(observed: Observer, folder: Path, *, limit: int | None, batch_size: int) -> Samples:
    """Every item of every task of a folder, as lm-eval asks and scores it.

    Paths in task files are taken from the folder. Random numbers, the model's mode and the tokenizer are
    left as they were.

    Raises:
        MissingExtraError: the extra ``general`` is not installed.
        DataError: the folder has no task, or a task or its data cannot be read there.
    """
    try:
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise MissingExtraError("the metric 'general'", extra="general") from error
    folder = folder.resolve()
    # Progress of single tasks would break ours, and data is named from the current folder.
    with _alone(), contextlib.redirect_stderr(io.StringIO()), contextlib.chdir(folder):
        tasks = _load(folder)
        with eval_mode(observed.model):
            # To a tokenizer without a padding token lm-eval gives one: it gets a copy.
            tokenizer = copy.deepcopy(observed.tokenizer)
            runner = HFLM(pretrained=observed.model, tokenizer=tokenizer, batch_size=batch_size)
            results = evaluate(runner, tasks, limit=limit, bootstrap_iters=0)
    samples: Samples = results["samples"]
    return samples


def _load(folder: Path) -> Any:
    """The tasks of a folder with their data."""
    from datasets.exceptions import DatasetsError
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    names = manager.all_subtasks
    if not names:
        raise DataError(
            f"general:tasks={folder}",
            why="no task file is in it.",
            fix=f"Put lm-eval's task files there (YAML, each with a 'task'). {HELP}",
        )
    for name in names:
        _require_local(folder, name, manager.task_index[name].cfg or {})
    try:
        loaded = manager.load(names)
    except (OSError, ValueError, KeyError, TypeError, DatasetsError) as error:
        raise DataError(
            f"general:tasks={folder}", why=f"lm-eval cannot load its tasks: {error}.", fix=HELP
        ) from error
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return loaded


def _require_local(folder: Path, name: str, config: Mapping[str, Any]) -> None:
    """Refuse a task whose data would come over the network: another day, other data."""
    path = config.get("dataset_path")
    files = str((config.get("dataset_kwargs") or {}).get("data_files", ""))
    if path is None or (path in LOADERS and "://" not in files) or (folder / str(path)).is_dir():
        return
    source = files if path in LOADERS else path
    raise DataError(
        f"general:tasks={folder}",
        why=f"its task {name!r} takes its data from {source}, not from there.",
        fix=f"Save the data in the folder. {HELP}",
    )


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Random numbers begin with lm-eval's seeds inside the block, and are as they were after it."""
    plain, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            random.seed(0)
            np.random.seed(FEWSHOT_SEED)  # noqa: NPY002
            torch.manual_seed(FEWSHOT_SEED)
            yield
    finally:
        random.setstate(plain)
        np.random.set_state(legacy)  # noqa: NPY002


# General ability by the tasks of ``lm-eval``, from a folder: task files and their data, no network.

SPLIT = "general"
COMPILED = "__pycache__"


@metrics.register("general")
class General(Metric):
    """What ``lm-eval`` measures of each item of the tasks in a folder; the mean over all items.

    Paths in a task file are taken from its folder. Prompts, solved questions and decoding are as the
    task file has them; how an item is scored is lm-eval's own.

    Source: Gao et al. 2021, "A framework for few-shot language model evaluation".
    """

    title: ClassVar[str] = "General ability by lm-eval"
    definition: ClassVar[str] = "mean over the items of the tasks in a folder, as lm-eval scores them"
    source: ClassVar[str] = "Language Model Evaluation Harness (lm-eval)"
    scale: ClassVar[str] = "0-1"
    lower_is_better: ClassVar[bool | None] = False
    needs_splits: ClassVar[tuple[str, ...]] = ()
    default: ClassVar[bool] = False
    caveats: ClassVar[str] = (
        "Items are pooled, so long tasks outweigh short ones. A task of choices has a floor at chance: a "
        "ruined model keeps a quarter of four choices."
    )

    tasks: str | None = Field(
        default=None,
        description="A folder of task files (YAML) and their data; Python that a task file names is run.",
    )
    score: str = Field(
        default="acc",
        description="The number of lm-eval that is taken of each item: acc, acc_norm, exact_match, ...",
    )
    limit: PositiveInt | None = Field(default=None, description="The most items of each task; null: all.")
    batch_size: PositiveInt = Field(default=8, description="Sequences per forward pass.")

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
            return not_applicable(SPLIT, "no folder of tasks is named: --metric general:tasks=FOLDER")
        samples = run_tasks(observed, Path(self.tasks), limit=self.limit, batch_size=self.batch_size)
        return {
            SPLIT: [
                self._scored(task, sample)
                for task, task_samples in samples.items()
                for sample in task_samples
            ]
        }

    def _scored(self, task: str, sample: Mapping[str, Any]) -> Score:
        item, value = f"{task}/{sample['doc_id']}", sample.get(self.score)
        if isinstance(value, bool | int | float):
            return Score(item=item, value=float(value))
        known = ", ".join(sample["metrics"])
        return Score(
            item=item, value=None, unscored=f"the task measures {known} of an item, not {self.score}"
        )
