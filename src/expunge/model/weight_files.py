"""The files that hold a checkpoint's weights: which ones they are, and what their headers say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open

from expunge.errors import ModelError
from expunge.parsing import load_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SUFFIX = ".safetensors"


class Header(NamedTuple):
    """What a file says of a tensor; ``dtype`` as safetensors spells it (``BF16``)."""

    path: Path
    dtype: str
    shape: tuple[int, ...]


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that a checkpoint's weights are read from, sorted by name; empty if there are none.

    They are ``model.safetensors``, or else those that ``model.safetensors.index.json`` lists. An index may
    list plain names of safetensors files in the same folder and nothing else: a pickle can run code, and a
    file outside the folder is not covered by a hash of the folder. A file may be a symbolic link, as it is
    in the cache of the Hub.

    Raises:
        ModelError: the index lists anything else, or a file that is not there.
        ValueError: the index is not JSON.
    """
    if (folder / SINGLE).is_file():
        return (folder / SINGLE,)
    if not (folder / INDEX).is_file():
        return ()
    names = index_names(folder)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"the checkpoint {folder} is incomplete",
            why=f"{INDEX} lists {missing[0]}, which is not there ({len(missing)} of {len(names)} files).",
            fix="Copy the folder again: every file of the index is needed.",
        )
    return tuple(folder / name for name in names)


def index_names(folder: Path) -> list[str]:
    """The names that ``model.safetensors.index.json`` lists, each once, sorted.

    Raises:
        ModelError: one of them is not a plain name of a safetensors file.
        ValueError: the index is not JSON.
    """
    listed = read_json(folder / INDEX).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise _bad_index(folder, "it has no weight_map, which says where each tensor is")
    names = list(dict.fromkeys(listed.values()))
    for name in names:
        if not isinstance(name, str) or not is_plain(name):
            raise _bad_index(folder, f"it lists {str(name)[:80]!r}")
    return sorted(names)


def is_plain(name: str) -> bool:
    """Whether a name is that of a safetensors file, without any folder."""
    return name.endswith(SUFFIX) and not name.startswith(".") and not set(name) & set("/\\:\0")


def read_headers(files: Iterable[Path]) -> dict[str, Header]:
    """What the files say of their tensors, by name; the tensors themselves are not read."""
    headers: dict[str, Header] = {}
    for path in files:
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping, only has keys()
                tensor = tensors.get_slice(name)
                headers[name] = Header(path, tensor.get_dtype(), tuple(tensor.get_shape()))
    return headers


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON file that holds an object.

    Raises:
        ValueError: it holds something else.
    """
    value = load_json(path.read_bytes())
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} holds a {type(value).__name__}, not an object")  # noqa: TRY004 - as json
    return value


def _bad_index(folder: Path, why: str) -> ModelError:
    return ModelError(
        f"{INDEX} of {folder} cannot be followed",
        why=f"{why}; only names of {SUFFIX} files in the same folder are read.",
        fix="Copy the checkpoint again from where it was published, or save it again as safetensors.",
    )
