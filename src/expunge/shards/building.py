"""Bringing a plan up to date: what was deleted goes, what is missing is trained, all is written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple

from tqdm import tqdm

from expunge.errors import OutputError
from expunge.model.disk import disk_errors
from expunge.record import versions
from expunge.shards.cost import epochs_of_slices
from expunge.shards.executors import Executor
from expunge.shards.folder import LOCK, PlanFolder, locked
from expunge.shards.ledger import Event
from expunge.shards.plan import Row
from expunge.shards.shard import ShardTask, SliceDone, read_state, train_shard, up_to_date

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
    """A plan to bring up to date. However it is killed, repeating it goes on; nothing is done twice."""

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

    def _tasks(self, rows: list[Row]) -> list[ShardTask]:
        return [
            ShardTask(plan=self.plan.path, shard=shard, keys=tuple(keys))
            for shard, keys in enumerate(self.plan.keys(rows))
            if not up_to_date(self.plan, shard, keys)
        ]

    def _shown(self, tasks: list[ShardTask]) -> tqdm[int]:
        trained = self.executor.run(train_shard, tasks) if tasks else iter(())
        return tqdm(trained, total=len(tasks), desc="shards", disable=self.quiet or None)


def note(plan: PlanFolder, rows: list[Row]) -> list[SliceDone]:
    """Write down every slice whose weights are there and not yet in the ledger; which these are."""
    known = {event.facts["key"] for event in plan.ledger.events("trained")}
    found = []
    for shard, keys in enumerate(plan.keys(rows)):
        for piece, key in enumerate(keys):
            folder = plan.weights(shard, piece, key)
            if key not in known and folder.exists():
                done = read_state(folder)
                plan.ledger.append("trained", **done._asdict(), versions=_installed())
                found.append(done)
    return found


def _touched(plan: PlanFolder, requests: list[Event]) -> list[tuple[int, int]]:
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


def unfinished(plan: PlanFolder) -> list[Event]:
    """Requests for deletion that no later entry completes."""
    finished = {number for event in plan.ledger.events("deleted") for number in event.facts["requests"]}
    return [event for event in plan.ledger.events("requested") if event.number not in finished]


def completion(plan: PlanFolder, rows: list[Row], requests: list[Event]) -> dict[str, Any]:
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


def sizes_of(plan: PlanFolder, rows: list[Row], shard: int) -> list[int]:
    """How many examples each slice of a shard has."""
    pieces = range(plan.manifest.cut.slices)
    return [sum((row.shard, row.slice) == (shard, piece) for row in rows) for piece in pieces]
