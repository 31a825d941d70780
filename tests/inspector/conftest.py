from __future__ import annotations

import json
from pathlib import Path

import pytest

from expunge.model.load import save_model
from tests.report.made import Made
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

NAMES = {"target": "target", "retrained": "retrained", "fragile": "unlearned"}


def save(folder: Path, *, seed: int) -> Path:
    tokenizer = tiny_tokenizer(all_bytes=True)
    save_model(tiny("llama", seed=seed, vocab_size=BYTES_VOCAB), tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit whose three models are there: a target, a retrained and an unlearned one."""
    home = tmp_path_factory.mktemp("inspected")
    models = [
        {"name": name, "role": role, "path": str(save(home / name, seed=seed)), "record": None}
        for seed, (name, role) in enumerate(NAMES.items())
    ]
    folder = home / "audit"
    folder.mkdir()
    Made().write(folder)
    (folder / "sources.json").write_text(json.dumps({"models": models, "splits": {}}))
    return folder
