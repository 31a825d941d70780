"""Datasets of the Hugging Face Hub, or saved by ``datasets``: rows with their places."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from expunge.corpus.rows import Row
from expunge.errors import DataError, MissingExtraError, did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
UNREADABLE = (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError)
"""What ``datasets`` raises over files that are damaged or that it has no decoder for."""
SAVED = ("dataset_dict.json", "dataset_info.json")


def hub_rows(name: str, *, config: str | None, split: str | None, revision: str | None) -> Iterator[Row]:
    """Rows of ``org/name`` (or a local folder in the Hub's layout), pinned to ``revision``.

    Raises:
        MissingExtraError: the extra ``hub`` is not installed.
        DataError: there is no such dataset, configuration or split, or no way to it.
    """
    datasets = _library(name)
    try:
        loaded = datasets.load_dataset(name, config, split=split, revision=revision)
    except (*UNREADABLE, datasets.exceptions.DatasetsError) as error:
        at = f" at revision {revision}" if revision else ""
        raise DataError(
            f"dataset {name!r}{at}",
            why=f"the Hub could not give it: {str(error).strip().removesuffix('.')}.",
            fix="Check the name, the configuration and the split; for a private one, log in with "
            "'hf auth login'; without a network, download it first and give its folder.",
        ) from error
    stem = "/".join(filter(None, (name.rsplit("/", 1)[-1], config)))
    yield from _dataset_rows(loaded, name=name, stem=stem, split=split)


def saved_rows(folder: Path, *, split: str | None) -> Iterator[Row]:
    """Rows of a folder written by ``save_to_disk``.

    Raises:
        MissingExtraError: the extra ``hub`` is not installed.
        DataError: the folder is damaged, or has several splits and none or no such one was named.
    """
    datasets = _library(str(folder))
    try:
        loaded = datasets.load_from_disk(str(folder))
    except (*UNREADABLE, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            str(folder),
            why=f"the saved dataset is damaged: {type(error).__name__}: {error}.",
            fix="Save it again with save_to_disk.",
        ) from error
    if split is not None and not isinstance(loaded, Mapping):
        raise DataError(
            str(folder),
            why=f"it holds one dataset, without splits such as {split!r}.",
            fix="Leave split out.",
        )
    yield from _dataset_rows(loaded, name=str(folder), stem=folder.name, split=split)


def _dataset_rows(loaded: Any, *, name: str, stem: str, split: str | None) -> Iterator[Row]:
    if isinstance(loaded, Mapping):
        split = the_split(name, list(loaded), split)
        loaded = loaded[split]
    label = f"{stem}/{split}" if split else stem
    where = f"{name}, split {split}" if split else name
    number = 0
    try:
        for number, values in enumerate(loaded, 1):
            yield Row(f"{where}, row {number}", f"{label}:{number}", values)
    except UNREADABLE as error:
        raise DataError(
            f"{where}, row {number + 1}",
            why=f"it cannot be read: {type(error).__name__}: {error}.",
            fix="Correct the row, or save the dataset without the column that holds it.",
        ) from error


def the_split(name: str, splits: list[str], wanted: str | None) -> str:
    """The split to read: the one named, or the only one.

    Raises:
        DataError: it is not there, or none was named and there are several.
    """
    if wanted is None and len(splits) == 1:
        return splits[0]
    if wanted is None:
        raise DataError(
            name,
            why=f"it has {len(splits)} splits: {', '.join(sorted(splits))}.",
            fix="Say which one with split. Of a folder, give the file itself.",
        )
    if wanted not in splits:
        raise DataError(name, why=f"it has no split {wanted!r}.", fix=did_you_mean(wanted, splits))
    return wanted


def _library(what: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(f"reading {what}", extra="hub") from error
    return datasets
