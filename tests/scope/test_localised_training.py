from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.errors import DataError
from expunge.model.load import load_model
from expunge.train.methods import stages
from expunge.train.run.state import Corpus
from tests.scope.people import FORGET, RETAIN
from tests.train.runs import model, recipe, run

CORPUS = Corpus(forget=FORGET, retain=RETAIN)
STAGE: dict[str, Any] = {
    "name": "unlearn",
    "forget": "log1mp",
    "retain": "gdr",
    "learning_rate": 1e-2,
    "weight_decay": 0.1,
    "epochs": 2,
    "batch_size": 5,
    "max_length": 128,
}
SCOPES: list[dict[str, Any]] = [
    {"name": "probe"},
    {"name": "probe", "modules": "sublayers", "count": 1},
    {"name": "random", "modules": "heads", "share": 0.05},
    {"name": "random", "modules": "sublayers", "like": {"name": "probe"}},
]


@pytest.mark.parametrize("scope", SCOPES, ids=lambda scope: "-".join(map(str, scope.values())))
def test_what_was_not_found_is_as_it_was_and_the_record_says_what_was(
    scope: dict[str, Any], tmp_path: Path
) -> None:
    record = run(recipe(STAGE | {"scope": scope}), tmp_path / "out", corpus=CORPUS)
    (facts,) = record["stages"]
    chosen = [part for part in facts["scope"]["parts"] if part["chosen"]]
    assert chosen
    assert all(isinstance(part["score"], float) for part in facts["scope"]["parts"])
    now, was = dict(load_model(tmp_path / "out").named_parameters()), dict(model().named_parameters())
    moved = {name for name, weight in was.items() if not torch.equal(now[name], weight)}
    assert moved == set(facts["tensors_that_may_change"])
    changed = sum(int((now[name] != was[name]).any(1).sum()) * was[name].shape[1] for name in moved)
    assert changed <= facts["weights_that_may_change"]  # rows outside did not move with decay


def test_the_probe_asks_for_a_retain_set_before_anything_is_loaded() -> None:
    stage = stages.build(STAGE | {"scope": "probe", "retain": None})
    assert stage.needs == {"retain"}
    with pytest.raises(DataError, match=r"scope \(probe\)"):
        stage.check(Corpus(forget=FORGET))
    assert stages.build(STAGE | {"scope": "all", "retain": None}).needs == frozenset()
