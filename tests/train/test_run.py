from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from expunge.errors import DataError, OutputError, TrainingError
from expunge.files import RECORD, claiming
from expunge.inference.observer import Observer
from expunge.model.load import hash_model, load_model, load_tokenizer
from expunge.train.loop.callbacks import Heartbeat
from expunge.train.run import run as train_run
from expunge.train.run.recipe import load_recipe
from expunge.train.run.run import RunRequest, carry_out, describe
from expunge.train.run.state import Corpus
from expunge.types import Example
from tests.train.runs import CORPUS, FORGET, SCOPES, TOKENIZER, model, recipe, run, unlearn, weights

ONE_EPOCH = {"epochs": 1}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def ask(**settings: Any) -> RunRequest:
    return RunRequest(
        command="unlearn", recipe=unlearn(**ONE_EPOCH), source="tiny", corpus=CORPUS, **settings
    )


def test_a_run_leaves_a_checkpoint_its_recipe_and_its_record(tmp_path: Path) -> None:
    chosen = unlearn(**ONE_EPOCH)
    record = run(chosen, tmp_path / "out", seed=4)
    assert names(tmp_path) == {"out"}
    loaded = load_model(tmp_path / "out")
    assert hash_model(loaded) == record["result_sha256"]
    tokenizer = load_tokenizer(tmp_path / "out", model=loaded)
    assert Observer(loaded, tokenizer, max_length=128).token_logps(list(FORGET))
    assert json.loads((tmp_path / "out" / RECORD).read_text(encoding="utf-8")) == record
    assert load_recipe(str(tmp_path / "out" / "recipe.yaml")) == chosen
    assert record["source_sha256"] == hash_model(model())
    assert (record["command"], record["seed"], record["source"]) == ("unlearn", 4, "tiny")
    assert record["forget"] == describe(FORGET)
    assert record["forget"]["examples"] == 5
    assert record["stages"][0]["history"][0].keys() >= {"loss", "loss_forget", "loss_retain", "epoch"}


@pytest.mark.parametrize("scope", ["tensor", "row"])
def test_bytes_outside_the_scope_are_on_disk_as_they_were(scope: str, tmp_path: Path) -> None:
    record = run(unlearn(scope=SCOPES[scope], weight_decay=0.1, **ONE_EPOCH), tmp_path / "out")
    before, after = model().state_dict(), load_file(tmp_path / "out" / "model.safetensors")
    moved = {name for name, weight in after.items() if not weight.equal(before[name])}
    assert moved == set(record["stages"][0]["tensors_that_may_change"])


@pytest.mark.parametrize(
    ("source", "saved", "expected"),
    [
        (torch.bfloat16, "source", torch.bfloat16),
        (torch.float32, "source", torch.float32),
        (torch.float32, "bfloat16", torch.bfloat16),
        (torch.bfloat16, "float32", torch.float32),
    ],
)
def test_the_result_is_saved_as_asked(
    source: torch.dtype, saved: Any, expected: torch.dtype, tmp_path: Path
) -> None:
    request = ask(save_dtype=saved)
    record = carry_out(request, lambda: (model().to(source), TOKENIZER), tmp_path / "out")
    loaded = load_model(tmp_path / "out")
    assert {weight.dtype for weight in loaded.parameters()} == {expected}
    assert hash_model(loaded) == record["result_sha256"]


def test_an_earlier_result_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    run(unlearn(**ONE_EPOCH), tmp_path / "out")
    before = weights(tmp_path / "out")
    with pytest.raises(OutputError, match="already exists"):
        carry_out(ask(), lambda: pytest.fail("loaded"), tmp_path / "out")
    assert weights(tmp_path / "out") == before
    run(unlearn(learning_rate=1e-2, **ONE_EPOCH), tmp_path / "out", overwrite=True)
    assert weights(tmp_path / "out") != before
    assert names(tmp_path) == {"out"}


def stop_half_way(output: Path, chosen: Any, **settings: Any) -> None:
    """Leave the unfinished run of a process that was killed in its second epoch."""
    with pytest.MonkeyPatch.context() as patch:

        def die(_self: Any, _args: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step == 4:
                raise KeyboardInterrupt

        patch.setattr(Heartbeat, "on_step_end", die)
        with pytest.raises(KeyboardInterrupt):
            run(chosen, output, **settings)


@pytest.mark.parametrize(
    ("chosen", "settings"),
    [
        (unlearn(epochs=2, learning_rate=2e-3), {}),
        (unlearn(epochs=2), {"seed": 1}),
        (unlearn(epochs=2), {"corpus": Corpus(forget=FORGET[:4], retain=CORPUS.retain)}),
    ],
    ids=["recipe", "seed", "data"],
)
def test_an_unfinished_run_of_another_request_is_refused(
    chosen: Any, settings: Any, tmp_path: Path
) -> None:
    stop_half_way(tmp_path / "out", unlearn(epochs=2))
    left = names(tmp_path / "out.partial" / "stage-0")
    with pytest.raises(OutputError, match="another recipe, model, data or seed"):
        run(chosen, tmp_path / "out", **settings)
    assert names(tmp_path / "out.partial" / "stage-0") == left
    assert not (tmp_path / "out").exists()


def test_told_to_overwrite_it_discards_an_unfinished_run(tmp_path: Path) -> None:
    stop_half_way(tmp_path / "out", unlearn(epochs=2))
    record = run(unlearn(epochs=2), tmp_path / "out", seed=1, overwrite=True)
    assert names(tmp_path) == {"out"}
    run(unlearn(epochs=2), tmp_path / "other", seed=1)
    assert weights(tmp_path / "out") == weights(tmp_path / "other")
    assert record["seed"] == 1


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_partial_folder_that_no_run_wrote_is_left_alone(
    kind: str, overwrite: bool, tmp_path: Path
) -> None:
    partial = tmp_path / "out.partial"
    if kind == "file":
        partial.write_text("mine")
    else:
        partial.mkdir()
        (partial / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="existing files are not from a run"):
        run(unlearn(**ONE_EPOCH), tmp_path / "out", overwrite=overwrite)
    assert partial.is_file() or names(partial) == {"mine.txt"}


def test_a_run_killed_before_it_said_what_it_was_asked_is_begun_anew(tmp_path: Path) -> None:
    litter = tmp_path / "out.partial" / ".request.json.x1y2"
    litter.mkdir(parents=True)
    (litter / "request.json").write_text("{")
    run(unlearn(**ONE_EPOCH), tmp_path / "out")
    assert names(tmp_path) == {"out"}


def test_a_loss_that_is_not_a_number_writes_nothing(tmp_path: Path) -> None:
    # One step of this size, and the second has no finite loss.
    chosen = unlearn(forget="ga", retain="gdr", learning_rate=1e30, epochs=3)
    with pytest.raises(TrainingError, match=r"not a number at step 2.*Lower learning_rate"):
        run(chosen, tmp_path / "out")
    assert names(tmp_path) == set()


def test_an_unfinished_run_may_be_kept(tmp_path: Path) -> None:
    run(unlearn(epochs=2), tmp_path / "out", keep_partial=True)
    assert names(tmp_path) == {"out", "out.partial"}
    assert (tmp_path / "out.partial" / "stage-0" / "checkpoint-3" / "complete").exists()


def test_stages_hand_the_model_on(tmp_path: Path) -> None:
    tune = {"name": "finetune", "on": "retain", "epochs": 1, "batch_size": 2, "learning_rate": 1e-3}
    adapt = {"name": "unlearn", "forget": "npo", "retain": "klr", "scope": SCOPES["lora"], "epochs": 1}
    one = run(recipe(tune), tmp_path / "one")
    both = run(recipe(tune, adapt), tmp_path / "both")
    assert [facts["stage"] for facts in both["stages"]] == ["finetune", "unlearn"]
    assert both["stages"][0] == one["stages"][0]
    # The second stage began where the first one ended: what adapters leave alone is as it was then.
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "both"))
    assert first["model.embed_tokens.weight"].equal(second["model.embed_tokens.weight"])
    assert not first["model.layers.0.mlp.up_proj.weight"].equal(second["model.layers.0.mlp.up_proj.weight"])


def test_data_is_described_by_everything_in_it() -> None:
    one = Example(id="a", prompt="p", completion="c", group="g")
    assert describe([one]) == describe((Example(id="a", prompt="p", completion="c", group="g"),))
    others = [
        Example(id="b", prompt="p", completion="c", group="g"),
        Example(id="a", prompt="p", completion="d", group="g"),
        Example(id="a", prompt="p", completion="c"),
    ]
    assert len({describe([example])["sha256"] for example in (one, *others)}) == 4
    assert describe([one, others[0]]) != describe([others[0], one])


def test_a_corpus_no_stage_can_use_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    def load() -> tuple[Any, Any]:
        pytest.fail("the model was loaded")

    request = RunRequest(
        command="test", recipe=load_recipe("npo_klr"), source="-", corpus=Corpus(forget=FORGET)
    )
    with pytest.raises(DataError, match="no retain set"):
        carry_out(request, load, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_that_was_killed_before_it_tidied_up_is_tidied_up(tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(unlearn(**ONE_EPOCH), output, keep_partial=True)
    with pytest.raises(OutputError, match="already exists"):
        run(unlearn(**ONE_EPOCH), output)
    assert names(tmp_path) == {"out"}


def test_the_unfinished_run_of_another_request_stays_beside_a_result(tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(unlearn(**ONE_EPOCH), output, keep_partial=True)
    request = output.with_name("out.partial") / "request.json"
    request.write_text(json.dumps(json.loads(request.read_text()) | {"seed": 7}))
    with pytest.raises(OutputError, match="already exists"):
        run(unlearn(**ONE_EPOCH), output)
    assert names(tmp_path) == {"out", "out.partial"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_appears_during_a_run_is_not_replaced(
    overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    write = train_run._write

    def appears(target: Path, *given: Any, **settings: Any) -> None:
        target.mkdir()
        (target / "thesis.txt").write_text("years")
        write(target, *given, **settings)

    monkeypatch.setattr(train_run, "_write", appears)
    with pytest.raises(OutputError, match=r"appeared while this run was working.*out\.finished: move it"):
        run(unlearn(**ONE_EPOCH), output, overwrite=overwrite)
    assert names(output) == {"thesis.txt"}
    assert names(tmp_path) == {"out", "out.finished"}
    assert load_model(tmp_path / "out.finished") is not None


def test_a_second_run_on_one_output_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with claiming(output), pytest.raises(OutputError, match="out is in use"):
        run(unlearn(**ONE_EPOCH), output)
    run(unlearn(**ONE_EPOCH), output)
    assert names(tmp_path) == {"out"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_partial_folder_with_something_else_in_it_is_left_alone(overwrite: bool, tmp_path: Path) -> None:
    partial = tmp_path / "out.partial"
    partial.mkdir()
    (partial / "request.json").write_text("{}")
    (partial / "thesis.txt").write_text("years")
    with pytest.raises(OutputError, match=r"out\.partial"):
        run(unlearn(**ONE_EPOCH), tmp_path / "out", overwrite=overwrite)
    assert names(partial) == {"request.json", "thesis.txt"}


def test_a_partial_folder_behind_a_link_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "request.json").write_text("{}")
    (tmp_path / "out.partial").symlink_to(tmp_path / "mine")
    with pytest.raises(OutputError, match="is a symbolic link"):
        run(unlearn(**ONE_EPOCH), tmp_path / "out", overwrite=True)
    assert names(tmp_path / "mine") == {"request.json"}


def test_what_a_run_writes_has_one_mode(tmp_path: Path) -> None:
    run(unlearn(**ONE_EPOCH), tmp_path / "out")
    assert len({path.stat().st_mode for path in (tmp_path / "out").iterdir()}) == 1
