from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from expunge.corpus.tokenise import Encoded
from expunge.edit.neurons import restore, writers
from expunge.errors import DataError, TrainingError
from expunge.model.arch import weight_oi
from expunge.model.load import load_model
from expunge.train.methods import depn
from expunge.train.methods.depn import ERASED, PrivacyNeurons
from expunge.train.run.recipe import Recipe
from expunge.train.run.state import Corpus
from expunge.types import Example
from tests.train.runs import model, recipe
from tests.train.runs import run as run_on

FORGET = tuple(
    Example(id=f"f{i}", prompt="Who?", completion=f" {word}") for i, word in enumerate(("a", "be", "cat"))
)
CORPUS = Corpus(forget=FORGET, retain=(Example(id="r", prompt="What?", completion=" owl"),))

SMALL = {"name": "depn", "neurons": 5, "rank": "sum", "steps": 3, "max_length": 128}


def run(chosen: Recipe, output: Path) -> dict[str, Any]:
    return run_on(chosen, output, corpus=CORPUS)


def test_exactly_so_many_neurons_are_gone_and_everything_else_is_as_it_was(tmp_path: Path) -> None:
    record = run(recipe(SMALL), tmp_path / "out")
    result, source = load_model(tmp_path / "out"), model()
    silent = sum(int((weight_oi(layer) == 0).all(0).sum()) for layer in writers(result).values())
    assert silent == record["stages"][0]["neurons"] == 5
    restore(result, load_file(tmp_path / "out" / ERASED))
    after, before = result.state_dict(), source.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_contrast_spares_what_the_retain_set_needs(tmp_path: Path) -> None:
    plain = run(recipe(SMALL), tmp_path / "sum")
    contrast = run(recipe({**SMALL, "rank": "contrast"}), tmp_path / "contrast")
    assert plain["result_sha256"] != contrast["result_sha256"]


def test_a_killed_run_does_not_attribute_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(recipe(SMALL), tmp_path / "whole")
    calls: list[str] = []
    real = depn.attribution

    def die_at_the_third(*args: object, **settings: int) -> torch.Tensor:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append("done")
        return real(*args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(depn, "attribution", die_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(recipe(SMALL), tmp_path / "killed")
    calls.clear()

    def count(*args: object, **settings: int) -> torch.Tensor:
        calls.append("done")
        return real(*args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(depn, "attribution", count)
    assert run(recipe(SMALL), tmp_path / "killed")["result_sha256"] == whole["result_sha256"]
    assert len(calls) == len(FORGET) - 2


def test_the_contrast_is_with_a_sample_of_the_retain_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retain = tuple(
        Example(id=f"r{place}", prompt=f"{place}?", completion=f" owl {place}") for place in range(40)
    )
    real, seen = depn.attribution, list[Encoded]()

    def watch(model: torch.nn.Module, text: Encoded, *, steps: int) -> torch.Tensor:
        seen.append(text)
        return real(model, text, steps=steps)

    monkeypatch.setattr(depn, "attribution", watch)
    contrasted = recipe({"name": "depn", "rank": "contrast", "neurons": 3, "steps": 1, "items": 4})
    run_on(contrasted, tmp_path / "out", corpus=Corpus(forget=FORGET[:1], retain=retain))
    numbers = [int(text.example.removeprefix("r")) for text in seen[-4:]]
    assert numbers == sorted(set(numbers))
    assert max(numbers) >= 10


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="belong to rank=vote"):
        PrivacyNeurons(rank="sum", share=0.3)
    with pytest.raises(DataError, match="subtracts the attributions"):
        PrivacyNeurons(rank="contrast").check(Corpus(forget=FORGET))
    nobody = {"name": "depn", "rank": "vote", "threshold": 1.0, "share": 1.0, "steps": 3}
    with pytest.raises(TrainingError, match="selected by enough texts"):
        run(recipe(nobody), tmp_path / "out")
    assert not (tmp_path / "out").exists()
