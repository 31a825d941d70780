"""A model of the Hub as a folder of this machine: what would be read of it, and nothing else."""

from __future__ import annotations

from pathlib import Path

from expunge.model.weight_files import INDEX, SINGLE, index_names

WORDS = ("*.json", "*.jinja", "*.model", "*.txt", "*.py")
"""Everything but weights."""


def downloaded(name: str) -> Path:
    """The folder of the Hub's cache that holds a model's files, which are fetched if they are not there.

    Weights are fetched by the names that its index lists, so that pickles stay where they are.

    Raises:
        ModelError: the index lists something other than safetensors files.
        OSError: there is no such model, or no way to it.
    """
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(name, allow_patterns=list(WORDS)))
    weights = index_names(folder) if (folder / INDEX).is_file() else [SINGLE]
    return Path(snapshot_download(name, revision=folder.name, allow_patterns=[*WORDS, *weights]))
