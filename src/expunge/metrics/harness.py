"""``lm-eval`` run on a model in memory, with the tasks of a folder and nothing from elsewhere."""

from __future__ import annotations

import contextlib
import copy
import io
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from expunge.errors import DataError, MissingExtraError
from expunge.score.mode import evaluating

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from expunge.score.observer import Observer

Samples = dict[str, list[dict[str, Any]]]
"""What lm-eval keeps of every item, by task."""

LOADERS = frozenset({"json", "csv", "parquet", "text", "arrow"})
"""Loaders of ``datasets`` that read files."""

FEWSHOT_SEED = 1234
"""lm-eval's own default for the choice of solved questions, so that numbers are its own."""

HELP = "A task file names data beside it: dataset_path: json, dataset_kwargs: {data_files: {test: FILE}}."


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
        with evaluating(observed.model):
            # To a tokenizer without a padding token lm-eval gives one: it gets a copy.
            tokenizer = copy.deepcopy(observed.tokenizer)
            runner = HFLM(pretrained=observed.model, tokenizer=tokenizer, batch_size=batch_size)
            found = evaluate(runner, tasks, limit=limit, bootstrap_iters=0)
    samples: Samples = found["samples"]
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
    place = files if path in LOADERS else path
    raise DataError(
        f"general:tasks={folder}",
        why=f"its task {name!r} takes its data from {place}, not from there.",
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
