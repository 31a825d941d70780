"""After a deletion every tensor is that of a run that never saw the example."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from expunge.errors import DataError, RecipeError
from expunge.record import hash_folder
from expunge.shards.building import sizes_of
from expunge.shards.ensemble import open_ensemble
from expunge.shards.folder import PlanFolder, Training
from expunge.shards.plan import SplitSettings, work
from expunge.types import Example
from tests.shards.plans import CUT, EXAMPLES, TRAINING, delete, plan, same, tensors, train, without

LORA = {"rank": 2, "dropout": 0.1}
CASES = {
    "pieces, warm-up, decay": TRAINING.model_copy(
        update={"piece": 1, "warmup_steps": 2, "schedule": "linear", "weight_decay": 0.1, "epochs": 3}
    ),
    "adapters with dropout": Training.model_validate(TRAINING.model_dump() | {"lora": LORA}),
}


def victim(plan: PlanFolder, shard: int, piece: int) -> str:
    return next(row.id for row in plan.rows() if (row.shard, row.slice) == (shard, piece))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> PlanFolder:
    """A trained plan of whole models; not to be changed."""
    made = plan(tmp_path_factory.mktemp("whole"))
    train(made)
    return made


@pytest.fixture
def trained(whole: PlanFolder, tmp_path: Path) -> PlanFolder:
    """A copy of it."""
    shutil.copytree(whole.path, tmp_path / "plan")
    return PlanFolder(tmp_path / "plan")


@pytest.mark.parametrize("piece", range(CUT.slices))
def test_a_deletion_equals_never_having_seen_it(trained: PlanFolder, piece: int, tmp_path: Path) -> None:
    gone = victim(trained, 1, piece)
    control = without(trained, tmp_path / "control", gone)
    train(control)
    seen = tensors(trained)
    others = hash_folder(trained.shard(0), patterns=("*/*",))
    done = delete(trained, gone)
    assert same(tensors(trained), tensors(control))
    assert not same(tensors(trained), seen)
    assert hash_folder(trained.shard(0), patterns=("*/*",)) == others
    before, after = seen[2 * CUT.slices :], tensors(trained)[2 * CUT.slices :]
    assert same(before[: 2 * piece], after[: 2 * piece])  # weights and moments of the slices before it
    assert not same(before[2 * piece : 2 * piece + 1], after[2 * piece : 2 * piece + 1])
    sizes = sizes_of(trained, trained.rows(), 1)
    assert done.built.examples == work(sizes, TRAINING.epochs, begin=piece)


@pytest.mark.parametrize("case", CASES)
def test_so_it_is_however_shards_are_trained(case: str, tmp_path: Path) -> None:
    made = plan(tmp_path, training=CASES[case])
    gone = victim(made, 1, 1)
    control = without(made, tmp_path / "control", gone)
    train(made)
    delete(made, gone)
    train(control)
    assert same(tensors(made), tensors(control))


def test_training_costs_what_theory_says(tmp_path: Path) -> None:
    made = plan(tmp_path)
    sizes = [sizes_of(made, made.rows(), shard) for shard in range(CUT.shards)]
    assert train(made).examples == sum(work(each, TRAINING.epochs) for each in sizes)
    assert train(made).examples == 0


def test_dealt_by_hashes_it_equals_a_plan_that_never_heard_of_it(tmp_path: Path) -> None:
    """Planned, trained and deleted, against planned and trained from data without it."""
    cut = SplitSettings(shards=2, slices=3, deal="hashed")
    made = plan(tmp_path, cut=cut)
    train(made)
    assert delete(made, "e3").ids == ["e3"]
    rest = [Example(id=f"other {e.id}", completion=e.completion, prompt=e.prompt, group=e.group)
            for e in EXAMPLES if e.id != "e3"]  # fmt: skip
    never = plan(tmp_path, cut=cut, examples=rest, name="never")
    train(never)
    assert same(tensors(made), tensors(never))


def test_the_ledger_says_what_a_deletion_cost(trained: PlanFolder) -> None:
    made = trained
    delete(made, victim(made, 0, 1), victim(made, 1, 2))
    facts = made.ledger.events("deleted")[0].facts
    expected = sum(
        work(sizes_of(made, made.rows(), shard), TRAINING.epochs, begin=piece)
        for shard, piece in ((0, 1), (1, 2))
    )
    assert facts["examples"] == facts["examples_in_theory"] == expected
    assert made.ledger.events("requested")[0].facts["touched"] == [[0, 1], [1, 2]]


def test_deleting_before_training_costs_nothing(tmp_path: Path) -> None:
    made = plan(tmp_path)
    delete(made, "e0")
    facts = made.ledger.events("deleted")[0].facts
    assert facts["examples"] == facts["examples_in_theory"] == 0
    control = without(made, tmp_path / "control", "e0")
    train(control)
    assert same(tensors(made), tensors(control))


def test_a_second_time_and_unknown_names_train_nothing(trained: PlanFolder) -> None:
    made = trained
    delete(made, "e0")
    head, bytes_before = made.ledger.head, hash_folder(made.path, patterns=("shard-*/*/*",))
    again = delete(made, "e0")
    assert (again.ids, again.before, again.built.examples) == ([], ["e0"], 0)
    with pytest.raises(DataError, match="id 'e99'"):
        delete(made, "e1", "e99")
    with pytest.raises(DataError, match=r"group 'AAA'.*Did you mean 'AA'"):
        delete(made, groups=("AAA",))
    with pytest.raises(DataError, match="1 of 1 texts are not in the plan"):
        delete(made, examples=(Example(id="x", completion="Never there."),))
    with pytest.raises(DataError, match="nothing was named"):
        delete(made)
    assert made.ledger.head == head
    assert hash_folder(made.path, patterns=("shard-*/*/*",)) == bytes_before


def test_an_owner_is_deleted_from_every_shard_it_lies_in(tmp_path: Path) -> None:
    more = [
        Example(id=f"m{i}", completion=f"Mira has {i} goats and {i * i} hens.", group="Mira")
        for i in range(6)
    ]
    made = plan(
        tmp_path, examples=[*EXAMPLES[:3], *more], cut=SplitSettings(shards=2, slices=1, owners="spread")
    )
    train(made)
    done = delete(made, groups=("Mira",))
    assert len(done.ids) == 6
    assert done.built.shards == 2
    assert all(row.group != "Mira" for row in made.rows())


def test_by_what_it_says_and_with_what_says_nearly_the_same(tmp_path: Path) -> None:
    text = "The goat of the miller eats the harp of the mason on the hill in the rain at night"
    twins = [Example(id="t0", completion=text), Example(id="t1", completion=text + " again")]
    made = plan(tmp_path, examples=[*EXAMPLES[:6], *twins], cut=SplitSettings(shards=1, slices=1))
    done = delete(made, examples=(Example(id="anything", completion=text),))
    assert (done.ids, done.stay) == (["t0"], ["t1"])
    done = delete(made, examples=(Example(id="anything", completion=text),), with_near=True)
    assert (done.ids, done.before, done.stay) == (["t1"], ["t0"], [])


def test_a_shard_may_be_emptied(tmp_path: Path) -> None:
    made = plan(tmp_path, examples=EXAMPLES[:3], cut=SplitSettings(shards=3, slices=1))
    train(made)
    gone = [row.id for row in made.rows() if row.shard == 1]
    delete(made, *gone)
    assert {row.shard for row in made.rows()} == {0, 2}
    assert made.examples(1, 0) == []
    assert open_ensemble(made).shards == [0, 2]


def test_so_few_epochs_that_a_slice_is_left_out_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="at least 3 epochs"):
        plan(
            tmp_path,
            cut=SplitSettings(shards=1, slices=4),
            training=TRAINING.model_copy(update={"epochs": 2}),
        )
    assert not (tmp_path / "plan").exists()
