"""Examples from wherever they lie: a file, a folder, or the Hub."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from expunge.corpus.columns import QUESTION, TEMPLATE, Columns
from expunge.corpus.formats import READERS
from expunge.corpus.rows import DataRow
from expunge.errors import DataError, MissingExtraError, did_you_mean

if TYPE_CHECKING:
    from expunge.types import Example


ENDINGS = ", ".join(READERS)
SHARD = re.compile(r"-\d{5}-of-\d{5}$")


def read_examples(
    source: str | Path,
    *,
    fields: Mapping[str, str] | None = None,
    template: str = QUESTION,
    split: str | None = None,
    config: str | None = None,
) -> list[Example]:
    """The examples of a data file, a folder, or a Hub dataset ``org/name`` or ``org/name@revision``.

    Files are JSONL, JSON, CSV, Parquet, or text (one document each). A folder holds such files, or
    was written by ``datasets.save_to_disk``. Columns are recognised by name (text; prompt and
    completion or response; question and answer; instruction, input and output, read as question and
    answer; messages or conversations; and optionally id, spans, and group, person, author or document,
    wrong or perturbed_answer, paraphrase or paraphrased_answer); ``fields`` maps a field to a column of
    another name. A question becomes a prompt by ``template``, or by what ``fields`` has under that name.
    ``split`` and ``config`` choose among the parts of a folder or Hub dataset.

    Raises:
        DataError: naming the file and line, and what to change.
        MissingExtraError: the source needs the extra ``hub``.
    """
    named = dict(fields or {})
    columns = Columns(named, named.pop(TEMPLATE, template))
    try:
        examples = [columns.example(row) for row in _rows(source, split=split, config=config)]
    except OSError as error:
        raise DataError(
            str(source), why=f"{error.strerror or error}.", fix="Check that the file can be read."
        ) from error
    if not examples:
        raise DataError(str(source), why="it holds no examples.", fix="Check that this is the right file.")
    return examples


def _rows(source: str | Path, *, split: str | None, config: str | None) -> Iterator[DataRow]:
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder_rows(path, split=split, config=config)
    if path.exists():
        if split is not None or config is not None:
            raise DataError(
                str(source),
                why="a single file has no splits or configurations to choose from.",
                fix="Leave split and config out, or give the folder.",
            )
        if not path.is_file():
            raise DataError(
                str(path), why="it is no regular file.", fix="Pass a file, a folder, or a dataset."
            )
        return _file_rows(path)
    require_source(source)
    on_hub = HUB_ID.fullmatch(str(source))
    return (
        hub_rows(on_hub["name"], config=config, split=split, revision=on_hub["revision"])
        if on_hub
        else iter(())
    )


def require_source(source: str | Path) -> None:
    """Refuse a file or folder that does not exist, unless it can be a dataset on the Hub.

    Raises:
        DataError: it does not exist.
    """
    path = Path(source).expanduser()
    if path.exists():
        return
    is_hub = HUB_ID.fullmatch(str(source)) is not None
    # "data/forget.jsonl" looks like a Hub id too; its ending or its folder tells.
    if isinstance(source, Path) or not is_hub or path.suffix.lower() in READERS or path.parent.is_dir():
        raise _missing(path)


def _file_rows(path: Path) -> Iterator[DataRow]:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            str(path),
            why=f"files ending in {path.suffix or 'nothing'!r} are not read.",
            fix=f"Read: {ENDINGS}.",
        )
    return reader(path)


def _folder_rows(folder: Path, *, split: str | None, config: str | None) -> Iterator[DataRow]:
    if config is not None:
        folder = folder / config
        if not folder.is_dir():
            raise _missing(folder)
    if any((folder / mark).is_file() for mark in SAVED):
        return saved_rows(folder, split=split)
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in READERS and path.is_file()]
    if not files:
        raise DataError(str(folder), why="the folder holds no data files.", fix=f"Read: {ENDINGS}.")
    if split is None and all(path.suffix.lower() == ".txt" for path in files):
        chosen = files
    else:
        # Reading forget.jsonl and retain.jsonl as one set would be a disaster: ask.
        splits = list(dict.fromkeys(map(_split_of, files)))
        wanted = the_split(str(folder), splits, split)
        chosen = [path for path in files if _split_of(path) == wanted]
    return (row for path in chosen for row in _file_rows(path))


def _split_of(path: Path) -> str:
    """The split a file belongs to: its stem without the Hub's shard number."""
    return SHARD.sub("", path.stem)


def _missing(path: Path) -> DataError:
    if not path.parent.is_dir():
        return DataError(
            str(path),
            why=f"there is no such file, nor a folder {path.parent}.",
            fix="Check the path; a Hub dataset is written org/name.",
        )
    siblings = [sibling.name for sibling in path.parent.iterdir() if not sibling.name.startswith(".")]
    fix = did_you_mean(path.name, siblings) if siblings else "Its folder is empty."
    return DataError(str(path), why="there is no such file or folder.", fix=fix)


# Datasets of the Hugging Face Hub, or saved by ``datasets``: rows with their places.

HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
UNREADABLE = (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError)
"""What ``datasets`` raises over files that are damaged or that it has no decoder for."""
SAVED = ("dataset_dict.json", "dataset_info.json")


def hub_rows(
    name: str, *, config: str | None, split: str | None, revision: str | None
) -> Iterator[DataRow]:
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


def saved_rows(folder: Path, *, split: str | None) -> Iterator[DataRow]:
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


def _dataset_rows(loaded: Any, *, name: str, stem: str, split: str | None) -> Iterator[DataRow]:
    if isinstance(loaded, Mapping):
        split = the_split(name, list(loaded), split)
        loaded = loaded[split]
    label = f"{stem}/{split}" if split else stem
    where = f"{name}, split {split}" if split else name
    number = 0
    try:
        for number, values in enumerate(loaded, 1):
            yield DataRow(f"{where}, row {number}", f"{label}:{number}", values)
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


Item = TypeVar("Item")


def sample(items: Sequence[Item], count: int, *, seed: int, name: str) -> tuple[Item, ...]:
    """At most ``count`` of ``items``, in their order; all of them if there are no more.

    ``name`` says of what they are a sample (a split), so that one seed draws each independently. The same
    seed, name and number of items give the same sample on every machine and in every run: files are often
    sorted by subject, so their first rows are no sample of them.
    """
    if len(items) <= count:
        return tuple(items)
    chosen = random.Random(f"{seed} {name}").sample(range(len(items)), count)
    return tuple(items[index] for index in sorted(chosen))
