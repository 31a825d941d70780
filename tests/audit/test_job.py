from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from expunge.audit.run import diagnose as module
from expunge.audit.run.diagnose import Checkpoint
from expunge.audit.run.grid import Audit
from expunge.audit.run.job import AuditJob
from expunge.audit.run.loaded import SAME, write_sources
from expunge.audit.run.plan import Role
from expunge.errors import DataError, ModelError, OutputError, RecipeError
from expunge.record import Stopwatch, hash_file, make_record
from tests.tiny import tiny, tiny_tokenizer


def questions(path: Path, count: int, word: str = "Who") -> str:
    rows = [{"id": f"q{n}", "question": f"{word} {n}?", "answer": f"{n}."} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def checkpoint(folder: Path, content: str = "") -> str:
    """A folder that passes for a checkpoint until it is loaded."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    save_file({"w": torch.zeros(1)}, folder / "model.safetensors", metadata={"content": content})
    return str(folder)


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    """What every audit needs: a model and a forget set of twelve questions."""
    return {
        "models": (checkpoint(tmp_path / "unlearned"),),
        "output": tmp_path / "audit",
        "splits": {"forget": questions(tmp_path / "forget.jsonl", 12)},
    }


def test_roles_and_names(job: dict[str, Any], tmp_path: Path) -> None:
    models = {name: checkpoint(tmp_path / name) for name in ("target", "control")}
    plan = AuditJob(**job, target=models["target"], retrained=models["control"]).plan()
    assert [(model.name, model.role) for model in plan.models] == [
        ("target", Role.TARGET),
        ("control", Role.RETRAINED),
        ("unlearned", Role.UNLEARNED),
    ]


def test_equal_names_take_as_much_of_their_paths_as_tells_them_apart(
    job: dict[str, Any], tmp_path: Path
) -> None:
    paths = [checkpoint(tmp_path / place / "runs" / "final") for place in "ab"]
    plan = AuditJob(**job | {"models": tuple(paths)}).plan()
    assert [model.name for model in plan.models] == ["a/runs/final", "b/runs/final"]


def test_a_model_is_known_by_its_bytes(job: dict[str, Any], tmp_path: Path) -> None:
    copies = [checkpoint(tmp_path / name, "same") for name in ("one", "two")]
    other = checkpoint(tmp_path / "three", "different")
    plan = AuditJob(**job | {"models": (*copies, other)}).plan()
    one, two, three = (model.hash for model in plan.models)
    assert one == two != three


def test_a_name_on_the_hub_is_not_looked_up_to_plan(job: dict[str, Any]) -> None:
    plan = AuditJob(**job | {"models": ("someone/model", "someone/other")}).plan()
    assert [model.name for model in plan.models] == ["model", "other"]
    assert plan.models[0].hash != plan.models[1].hash


@pytest.mark.parametrize("kind", ["missing", "a file", "empty"])
def test_what_is_no_checkpoint_is_refused_before_anything_is_measured(
    job: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "model"
    if kind == "a file":
        path.write_text("")
    if kind == "empty":
        path.mkdir()
    with pytest.raises(ModelError):
        AuditJob(**job, target=str(path)).plan()


def test_metrics_that_lack_something_are_left_out_and_told(job: dict[str, Any]) -> None:
    plan = AuditJob(**job).plan()
    assert next(iter(plan.named_metrics)) == "knowmem_forget"
    lacks = {each.metric: each.missing for each in plan.skipped}
    assert lacks["privleak"] == ("holdout", "retrained")
    assert lacks["utility"] == ("retain",)
    assert not lacks.keys() & plan.named_metrics.keys()
    assert AuditJob(**job, metrics=("knowmem_forget",)).plan().skipped == ()


def test_seeds_of_a_recipe_are_models_of_the_audit(job: dict[str, Any], tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path / f"seed{n}", str(n)) for n in range(3)]
    plan = AuditJob(**job, seeds_of=(f"npo={','.join(paths)}",)).plan()
    assert [model.name for model in plan.models] == ["unlearned", "seed0", "seed1", "seed2"]
    assert plan.seeds == {"npo": ("seed0", "seed1", "seed2")}
    only = AuditJob(**job | {"models": ()}, seeds_of=(f"npo={paths[0]},{paths[1]}",)).plan()
    assert [model.name for model in only.models] == ["seed0", "seed1"]
    with pytest.raises(RecipeError, match="without a model"):
        AuditJob(**job | {"models": ()}).plan()


def test_runs_that_differ_in_the_seed_alone_are_found(job: dict[str, Any], tmp_path: Path) -> None:
    common = {name: name for name in SAME} | {"recipe": {"name": "npo"}}
    seeds = {"a": 0, "b": 1, "c": 2}
    for name, seed in seeds.items():
        checkpoint(tmp_path / name, name)
        (tmp_path / name / "record.json").write_text(json.dumps(common | {"seed": seed}))
    (tmp_path / "c" / "record.json").write_text(json.dumps(common | {"seed": 2, "forget": "other"}))
    plan = AuditJob(**job | {"models": tuple(str(tmp_path / name) for name in seeds)}).plan()
    assert plan.seeds == {"npo": ("a", "b")}


def test_what_is_noted_beside_a_model_is_no_part_of_it(job: dict[str, Any], tmp_path: Path) -> None:
    before = AuditJob(**job).plan().models[0].hash
    folder = tmp_path / "unlearned"
    for name in ("record.json", "coverage.json"):
        (folder / name).write_text('{"seconds": 3}')
    assert AuditJob(**job).plan().models[0].hash == before
    (folder / "generation_config.json").write_text("{}")
    assert AuditJob(**job).plan().models[0].hash != before


def test_full_precision_is_there_once_however_often_it_is_named(job: dict[str, Any]) -> None:
    plan = AuditJob(**job, quantizers=("full", "int4", "full")).plan()
    assert [column.label for column in plan.columns] == ["full", "int4"]


def test_a_folder_gives_the_splits_that_are_not_named(job: dict[str, Any], tmp_path: Path) -> None:
    world = tmp_path / "world"
    world.mkdir()
    for split, count in {"forget": 3, "retain": 4, "neighbours": 2}.items():
        questions(world / f"{split}.jsonl", count, word=split)
    (world / "notes.jsonl").write_text("not read")
    probes = AuditJob(**job, probes=world).plan().probes
    assert (len(probes.forget), len(probes.retain), len(probes.neighbours)) == (12, 4, 2)
    assert probes.holdout == ()
    assert probes.forget[0].prompt.startswith("Question: Who")  # named, so not the folder's


def test_a_sample_is_drawn_by_the_seed_and_keeps_its_order(job: dict[str, Any]) -> None:
    def asked(**settings: int) -> list[str]:
        return [example.id for example in AuditJob(**job, **settings).plan().probes.forget]

    everyone = [f"q{n}" for n in range(12)]
    assert asked() == everyone
    assert asked(max_items=12) == everyone
    first, again, other = asked(max_items=5), asked(max_items=5), asked(max_items=5, seed=1)
    assert first == again != other
    assert len(first) == 5
    assert first == [identity for identity in everyone if identity in first]


def test_seed_and_length_reach_the_plan(job: dict[str, Any]) -> None:
    plan = AuditJob(**job, seed=7, max_length=64).plan()
    assert (plan.seed, plan.max_length) == (7, 64)


def test_columns_are_named_by_fields(job: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"ask": "Who?", "say": "Ada."}\n')
    named = job | {"splits": {"forget": str(path)}, "fields": {"question": "ask", "answer": "say"}}
    assert AuditJob(**named).plan().probes.forget[0].completion == "Ada."


def test_without_a_forget_set_there_is_nothing_to_ask(job: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="without a forget set"):
        AuditJob(**job | {"splits": {}}, probes=tmp_path / "empty").plan()
    with pytest.raises(DataError, match="no such folder"):
        AuditJob(**job, probes=tmp_path / "nowhere").plan()


@pytest.mark.parametrize("state", ["absent", "empty", "begun"])
def test_an_audit_may_go_where_nothing_or_an_audit_is(
    job: dict[str, Any], monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    output: Path = job["output"]
    if state != "absent":
        (output / "cells" if state == "begun" else output).mkdir(parents=True)
    ran: list[tuple[Path, int]] = []

    def run(audit: Audit, *, workers: int, progress: object) -> str:
        ran.append((audit.folder, workers))
        return "summary"

    monkeypatch.setattr(Audit, "run", run)
    assert AuditJob(**job, workers=3).run() == "summary"
    assert ran == [(output, 3)]


def test_an_audit_is_not_mixed_with_anything_else(job: dict[str, Any]) -> None:
    output: Path = job["output"]
    output.mkdir()
    (output / "thesis.txt").write_text("")
    with pytest.raises(OutputError, match="is not an audit"):
        AuditJob(**job).run()
    with pytest.raises(OutputError, match="is not an audit"):
        AuditJob(**job | {"output": output / "thesis.txt"}).run()
    with pytest.raises(OutputError, match="is not a folder"):
        AuditJob(**job | {"output": output / "thesis.txt" / "audit"}).run()


def test_a_model_is_loaded_with_its_tokenizer_on_the_best_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny("llama").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    monkeypatch.setattr(module, "best_device", lambda: "meta")
    model, tokenizer = Checkpoint(str(tmp_path))()
    assert next(model.parameters()).device.type == "meta"
    assert len(tokenizer) == model.config.vocab_size


@pytest.mark.parametrize("content", ["no JSON", "[]"])
def test_what_models_and_probes_came_from_is_kept(
    job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setattr(Audit, "run", lambda self, **_: write_sources(self.folder, self.sources))
    record = make_record(command="unlearn", watch=Stopwatch())
    (tmp_path / "unlearned" / "record.json").write_text(json.dumps(record))
    target = checkpoint(tmp_path / "target")
    (tmp_path / "target" / "record.json").write_text(content)
    AuditJob(**job, target=target).run()
    kept = json.loads((job["output"] / "sources.json").read_text())
    assert [(each["name"], each["path"], each["record"]) for each in kept["models"]] == [
        ("target", target, None),
        ("unlearned", job["models"][0], record),
    ]
    file = job["splits"]["forget"]
    assert kept["splits"] == {
        "forget": {"file": file, "asked": 12, "documents": 0, "groups": 0, "sha256": hash_file(Path(file))}
    }
