from __future__ import annotations

import json
from collections.abc import Mapping
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


def inspected(home: Path, made: Made, roles: Mapping[str, str]) -> Path:
    """An audit below ``home`` whose models are there, by name and role."""
    models = [
        {"name": name, "role": role, "path": str(save(home / f"model-{seed}", seed=seed)), "record": None}
        for seed, (name, role) in enumerate(roles.items())
    ]
    folder = home / "audit"
    folder.mkdir()
    made.write(folder)
    (folder / "sources.json").write_text(json.dumps({"models": models, "splits": {}}))
    return folder


@pytest.fixture(scope="session")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit of a target, a retrained and an unlearned model."""
    return inspected(tmp_path_factory.mktemp("inspected"), Made(), NAMES)
