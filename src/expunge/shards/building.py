"""Bringing a plan up to date: training what is missing, and deleting examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple

from tqdm import tqdm

from expunge.errors import DataError, OutputError, did_you_mean
from expunge.model.resources import disk_errors
from expunge.record import versions
from expunge.shards.executors import Executor
from expunge.shards.folder import LOCK, PlanFolder, locked
from expunge.shards.ledger import LedgerEvent
from expunge.shards.plan import ExampleRow, content_of, epochs_of_slices
from expunge.shards.shard import ShardTask, SliceDone, read_state, train_shard, up_to_date
from expunge.types import Example

CHANGES_BYTES = ("torch", "transformers", "tokenizers", "peft")
"""Packages whose version may change the last bit of a weight."""


class Built(NamedTuple):
    """What a run did: shards and slices trained, examples read, requests for deletion that it completed."""

    shards: int
    slices: int
    examples: int
    deletions: int


@dataclass(frozen=True, kw_only=True)
class Build:
    """A plan to bring up to date. Repeating it resumes an interrupted run; nothing is done twice."""

    plan: PlanFolder
    executor: Executor
    quiet: bool = True

    def run(self, before: Callable[[], None] = lambda: None) -> Built:
        """Train what is missing; ``before`` is called under the plan's lock.

        Raises:
            OutputError: another process is at it.
            TrainingError: a worker was killed, or the loss is not a number.
        """
        plan = self.plan
        with locked(plan.path / LOCK, wait=False), disk_errors(plan.path):
            plan.require_ledger()
            noted = note(plan, plan.rows())  # what a killed run had trained and not written down
            before()
            rows = plan.rows()
            requests = unfinished(plan)
            plan.settle(rows)
            tasks = self._tasks(rows)
            try:
                for _ in self._shown(tasks):
                    noted += note(plan, rows)
            finally:
                noted += note(plan, rows)
            if requests:
                plan.ledger.append("deleted", **completion(plan, rows, requests))
        return Built(len(tasks), len(noted), sum(done.examples for done in noted), len(requests))

    def _tasks(self, rows: list[ExampleRow]) -> list[ShardTask]:
        return [
            ShardTask(plan=self.plan.path, shard=shard, keys=tuple(keys))
            for shard, keys in enumerate(self.plan.keys(rows))
            if not up_to_date(self.plan, shard, keys)
        ]

    def _shown(self, tasks: list[ShardTask]) -> tqdm[int]:
        trained = self.executor.run(train_shard, tasks) if tasks else iter(())
        return tqdm(trained, total=len(tasks), desc="shards", disable=self.quiet or None)


def note(plan: PlanFolder, rows: list[ExampleRow]) -> list[SliceDone]:
    """Write down every slice whose weights are there and not yet in the ledger; which these are."""
    known = {event.facts["key"] for event in plan.ledger.events("trained")}
    trained = []
    for shard, keys in enumerate(plan.keys(rows)):
        for piece, key in enumerate(keys):
            folder = plan.weights(shard, piece, key)
            if key not in known and folder.exists():
                done = read_state(folder)
                plan.ledger.append("trained", **done._asdict(), versions=_installed())
                trained.append(done)
    return trained


def _touched(plan: PlanFolder, requests: list[LedgerEvent]) -> list[tuple[int, int]]:
    """Shard and slice of everything that requests took out.

    Raises:
        OutputError: the plan has no such shard or slice.
    """
    cut = plan.manifest.cut
    cells = [(shard, piece) for request in requests for shard, piece in request.facts["touched"]]
    if any(shard >= cut.shards or piece >= cut.slices for shard, piece in cells):
        raise OutputError(
            f"the ledger {plan.ledger.path}",
            why="a request names a shard or slice that the plan does not have.",
            fix="Restore the plan and its ledger from the same copy.",
        )
    return cells


@cache
def _installed() -> dict[str, str]:
    return {name: version for name, version in versions().items() if name in CHANGES_BYTES}


def unfinished(plan: PlanFolder) -> list[LedgerEvent]:
    """Requests for deletion that no later entry completes."""
    finished = {number for event in plan.ledger.events("deleted") for number in event.facts["requests"]}
    return [event for event in plan.ledger.events("requested") if event.number not in finished]


def completion(plan: PlanFolder, rows: list[ExampleRow], requests: list[LedgerEvent]) -> dict[str, Any]:
    """What the ledger says when deletions are done: examples read for them, and how many theory has.

    Only slices that had been trained before the first of the requests count: training the others is no
    cost of a deletion.
    """
    first = requests[0].number
    trained = plan.ledger.events("trained")
    before = {(event.facts["shard"], event.facts["slice"]) for event in trained if event.number < first}
    again = [event.facts for event in trained if event.number > first]
    touched: dict[int, int] = {}
    for shard, piece in _touched(plan, requests):
        touched[shard] = min(piece, touched.get(shard, piece))
    epochs = epochs_of_slices(plan.manifest.training.epochs, plan.manifest.cut.slices)
    expected = 0
    for shard, start in touched.items():
        seen = list(accumulate(sizes_of(plan, rows, shard)))
        expected += sum(
            epochs[piece] * seen[piece] for piece in range(start, len(seen)) if (shard, piece) in before
        )
    return {
        "requests": [request.number for request in requests],
        "examples": sum(f["examples"] for f in again if (f["shard"], f["slice"]) in before),
        "examples_in_theory": expected,
        "weights": [read_state(plan.last_weights(shard, rows)).weights for shard in sorted(touched)],
    }


def sizes_of(plan: PlanFolder, rows: list[ExampleRow], shard: int) -> list[int]:
    """How many examples each slice of a shard has."""
    pieces = range(plan.manifest.cut.slices)
    return [sum((row.shard, row.slice) == (shard, piece) for row in rows) for piece in pieces]


# Taking examples out: asked for in the ledger first, done by bringing the plan up to date.


class Deleted(NamedTuple):
    """What a deletion did: ids that go, that were gone, near duplicates that stay, the work, the head."""

    ids: list[str]
    before: list[str]
    stay: list[str]
    built: Built
    head: str


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """Examples to take out: by id, by group (all shards it is in), or by what they say."""

    ids: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    with_near: bool = False

    def run(self, build: Build) -> Deleted:
        """Write the request down, then retrain what has seen them.

        A deletion that was killed after the request is completed by the next ``train`` or ``delete``.

        Raises:
            DataError: an id, a group or a text is not in the plan; then nothing is deleted.
        """
        requested: list[ExampleRow] = []
        gone: set[str] = set()

        def request() -> None:
            requested.extend(self.rows(build.plan))
            gone.update(build.plan.gone())
            new = [row for row in requested if row.id not in gone]
            if new:
                build.plan.ledger.append("requested", **facts_of(new))

        built = build.run(before=request)
        now = {row.id for row in requested}
        near = {row.near for row in requested} - {None}
        return Deleted(
            ids=[row.id for row in requested if row.id not in gone],
            before=[row.id for row in requested if row.id in gone],
            stay=[row.id for row in build.plan.rows() if row.near in near and row.id not in now],
            built=built,
            head=build.plan.ledger.head,
        )

    def rows(self, plan: PlanFolder) -> list[ExampleRow]:
        """The rows of the manifest that are meant, deleted ones among them."""
        rows = plan.manifest.rows
        contents = [content_of(example) for example in self.examples]
        ids, groups, wanted = set(self.ids), set(self.groups), set(contents)
        _refuse_unknown("id", self.ids, [row.id for row in rows])
        _refuse_unknown("group", self.groups, [row.group for row in rows if row.group is not None])
        known = {row.content for row in rows}
        unknown = [e.id for e, content in zip(self.examples, contents, strict=True) if content not in known]
        if unknown:
            raise DataError(
                f"example {unknown[0]!r}",
                why=f"{len(unknown)} of {len(self.examples)} texts are not in the plan word for word.",
                fix="Name them by --id or --group instead, or give the very rows the plan was made of.",
            )
        matching = [row for row in rows if row.id in ids or row.group in groups or row.content in wanted]
        if not matching:
            raise DataError(
                "nothing to delete", why="nothing was named.", fix="Pass --id, --group or --data."
            )
        if self.with_near:
            near = {row.near for row in matching} - {None}
            meant = {row.id for row in matching}
            matching = [row for row in rows if row.id in meant or row.near in near]
        return matching


def facts_of(rows: Sequence[ExampleRow]) -> dict[str, object]:
    """A request as the ledger holds it: never a text, only names and hashes, and where they lay."""
    cells = sorted({(row.shard, row.slice) for row in rows})
    return {
        "ids": [row.id for row in rows],
        "contents": [row.content for row in rows],
        "touched": [list(cell) for cell in cells],
    }


def _refuse_unknown(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    there = dict.fromkeys(known)  # a group has many rows
    for name in names:
        if name not in there:
            raise DataError(
                f"{what} {name!r}", why="the plan has none.", fix=did_you_mean(name, list(there))
            )
