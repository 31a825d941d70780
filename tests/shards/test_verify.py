from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from expunge.errors import OutputError
from expunge.shards.ensemble import open_ensemble
from expunge.shards.executors import InProcessExecutor
from expunge.shards.folder import LEDGER, MANIFEST, OPTIMIZER, STATE, WEIGHTS, PlanFolder
from expunge.shards.verify import differing, problems, replayed, verified
from tests.shards.plans import CUT, delete, plan, start, tensors, train


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> PlanFolder:
    made = plan(tmp_path_factory.mktemp("verified"), cut=CUT.model_copy(update={"slices": 2}))
    train(made)
    delete(made, "e0")
    return made


@pytest.fixture
def made(whole: PlanFolder, tmp_path: Path) -> PlanFolder:
    shutil.copytree(whole.path, tmp_path / "plan")
    return PlanFolder(tmp_path / "plan")


def deleted_row(made: PlanFolder) -> tuple[int, int]:
    row = next(row for row in made.manifest.rows if row.id == "e0")
    return row.shard, row.slice


def test_a_plan_as_it_should_be(made: PlanFolder) -> None:
    assert problems(made, head=made.ledger.head) == []
    facts = verified(made.path, head=None, replay=False, workers=1)
    assert (facts["examples"], facts["deleted"]) == (11, 1)


def test_training_anew_gives_the_same_bytes_or_it_is_said(made: PlanFolder) -> None:
    assert replayed(made, InProcessExecutor()) == []
    weights = made.last_weights(1, made.rows()) / WEIGHTS
    whole = bytearray(weights.read_bytes())
    whole[-1] ^= 1
    weights.write_bytes(whole)
    assert replayed(made, InProcessExecutor()) == [
        "shard 1, slice 1: it is not what training without what was deleted gives"
    ]
    assert problems(made) == ["shard 1, slice 1: its weights are not those the ledger holds"]


@pytest.mark.parametrize("name", [OPTIMIZER, STATE])
def test_every_file_of_every_slice_is_covered(made: PlanFolder, name: str) -> None:
    path = made.weights(0, 0, made.keys(made.rows())[0][0]) / name  # of the first slice, not of the last
    whole = path.read_bytes()
    path.write_bytes(
        whole.replace(b'"examples": ', b'"examples": 1') if name == STATE else whole[:-1] + b"?"
    )
    what = "state" if name == STATE else "optimizer"
    assert problems(made) == [f"shard 0, slice 0: its {what} is not that the ledger holds"]
    assert replayed(made, InProcessExecutor()) == [
        "shard 0, slice 0: it is not what training without what was deleted gives"
    ]
    path.unlink()
    assert problems(made) == [
        f"shard 0, slice 0: its {each} is not that the ledger holds" for each in [what]
    ]


def test_a_plan_of_an_earlier_version_is_not_refused(made: PlanFolder) -> None:
    """Its ledger has no hash of the optimizer, and neither has its state."""
    facts = made.ledger.events("trained")[0].facts
    folder = made.weights(facts["shard"], facts["slice"], facts["key"])
    state = json.loads((folder / STATE).read_text())
    earlier = {name: fact for name, fact in state.items() if name != "optimizer"}
    (folder / STATE).write_text(json.dumps(earlier))
    assert differing(folder, {name: fact for name, fact in facts.items() if name != "optimizer"}) == []
    assert differing(folder, facts) == ["state"]


def test_a_plan_without_its_ledger_is_not_trained(made: PlanFolder) -> None:
    made.ledger.path.unlink()
    with pytest.raises(OutputError, match=r"missing or empty, so it is unknown what was deleted"):
        train(made)
    with pytest.raises(OutputError, match="missing or empty"):
        open_ensemble(made)
    assert "manifest: it is not the one the ledger begins with" in problems(made)


def test_deleted_text_that_came_back_is_found(made: PlanFolder) -> None:
    shard, piece = deleted_row(made)
    with made.texts(shard, piece).open("a") as texts:
        texts.write(
            json.dumps({"id": "e0", "prompt": "Where is Ada?", "completion": " In Arlen.", "group": "AA"})
            + "\n"
        )
    assert problems(made) == [f"shard {shard}, slice {piece}: 1 deleted texts are still there"]
    train(made)
    assert problems(made) == []


def test_text_that_was_changed_or_lost_is_found(made: PlanFolder) -> None:
    path = made.texts(0, 0)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:]) + lines[0].replace("In ", "At "))
    assert problems(made) == ["shard 0, slice 0: 1 texts do not belong there, 1 are missing"]


def test_weights_that_saw_what_is_gone_are_found(made: PlanFolder) -> None:
    shutil.copytree(made.last_weights(0, made.rows()), made.shard(0) / "slice-001-0123456789abcdef")
    assert problems(made) == ["shard 0: slice-001-0123456789abcdef belongs to no slice as they are now"]
    shutil.rmtree(made.last_weights(1, made.rows()))
    assert "shard 1, slice 1: it is not trained" in problems(made)
    before = len(made.ledger.events())
    train(made)
    assert problems(made) == []
    assert len(made.ledger.events()) == before  # the same weights again are no event
    assert tensors(made)


def test_a_ledger_that_was_cut_or_changed_is_found(made: PlanFolder) -> None:
    head = made.ledger.head
    database = sqlite3.connect(made.path / LEDGER)
    database.executescript("DROP TRIGGER no_removal; DROP TRIGGER no_change;")
    database.execute("DELETE FROM events WHERE kind = 'deleted'")
    database.commit()
    found = problems(made, head=head)
    assert f"ledger: it no longer holds the entry {head}" in found
    assert any("is not completed" in problem for problem in found)
    database.execute(
        """UPDATE events SET facts = replace(facts, '"e0"', '"e1"') WHERE kind = 'requested'"""
    )
    database.commit()
    database.close()
    assert any("was changed" in problem for problem in problems(made))


def test_another_manifest_or_start_is_found(made: PlanFolder, tmp_path: Path) -> None:
    manifest = json.loads((made.path / MANIFEST).read_text())
    manifest["start"]["folder"] = str(start(tmp_path / "other", hidden_size=32))
    (made.path / MANIFEST).write_text(json.dumps(manifest))
    other = PlanFolder(made.path)
    found = problems(other)
    assert found[0] == "manifest: it is not the one the ledger begins with"
    assert "are not those the plan was made with" in found[1]
    with pytest.raises(OutputError, match=r"does not match its ledger.*manifest"):
        verified(made.path, head=None, replay=True, workers=1)


def test_what_is_no_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"holds no plan.*expunge shards plan"):
        PlanFolder(tmp_path)
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(OutputError, match="Restore it"):
        PlanFolder(tmp_path)
