"""Taking examples out: asked for in the ledger first, done by bringing the plan up to date."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from expunge.errors import DataError, did_you_mean
from expunge.shards.building import Build, Built
from expunge.shards.folder import PlanFolder
from expunge.shards.plan import Row, content_of
from expunge.types import Example


class Deleted(NamedTuple):
    """What a deletion did: ids that go, that were gone, near duplicates that stay, the work, the head."""

    ids: list[str]
    before: list[str]
    stay: list[str]
    built: Built
    head: str


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """Examples to take out: by id, by group (all shards it lies in), or by what they say."""

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
        asked: list[Row] = []
        gone: set[str] = set()

        def request() -> None:
            asked.extend(self.rows(build.plan))
            gone.update(build.plan.gone())
            new = [row for row in asked if row.id not in gone]
            if new:
                build.plan.ledger.append("requested", **facts_of(new))

        built = build.run(before=request)
        now = {row.id for row in asked}
        near = {row.near for row in asked} - {None}
        return Deleted(
            ids=[row.id for row in asked if row.id not in gone],
            before=[row.id for row in asked if row.id in gone],
            stay=[row.id for row in build.plan.rows() if row.near in near and row.id not in now],
            built=built,
            head=build.plan.ledger.head,
        )

    def rows(self, plan: PlanFolder) -> list[Row]:
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
        found = [row for row in rows if row.id in ids or row.group in groups or row.content in wanted]
        if not found:
            raise DataError(
                "nothing to delete", why="nothing was named.", fix="Pass --id, --group or --data."
            )
        if self.with_near:
            near = {row.near for row in found} - {None}
            meant = {row.id for row in found}
            found = [row for row in rows if row.id in meant or row.near in near]
        return found


def facts_of(rows: Sequence[Row]) -> dict[str, object]:
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
