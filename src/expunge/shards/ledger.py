"""What happened to a plan: an append-only file whose every entry holds the hash of the one before.

With the newest hash kept elsewhere, a change, a removal or a cut is detected later.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from expunge.errors import OutputError
from expunge.parsing import load_json
from expunge.record import CHAIN_START, chain_faults, hash_json
from expunge.registry import explain

Kind = Literal["planned", "trained", "requested", "deleted"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY,
    time TEXT NOT NULL,
    kind TEXT NOT NULL,
    facts TEXT NOT NULL,
    before TEXT NOT NULL,
    hash TEXT NOT NULL
);
CREATE TRIGGER IF NOT EXISTS no_change BEFORE UPDATE ON events
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS no_removal BEFORE DELETE ON events
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""


class _Facts(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Planned(_Facts):
    manifest: str


class _Trained(_Facts):
    shard: NonNegativeInt
    slice: NonNegativeInt
    key: str
    weights: str
    examples: int


class _Requested(_Facts):
    ids: list[str]
    touched: list[Annotated[list[NonNegativeInt], Field(min_length=2, max_length=2)]]


class _Deleted(_Facts):
    requests: list[int]


FACTS: dict[str, type[_Facts]] = {
    "planned": _Planned,
    "trained": _Trained,
    "requested": _Requested,
    "deleted": _Deleted,
}
"""What is read of an entry of each kind, and of which type it is."""


@dataclass(frozen=True, slots=True)
class LedgerEvent:
    """One entry: its number from 1 on, when (UTC), what, the hash of the entry before, its own."""

    number: int
    time: str
    kind: str
    facts: Mapping[str, Any]
    before: str
    hash: str

    @property
    def expected_hash(self) -> str:
        """The hash that the entry should have."""
        return hash_json([self.number, self.time, self.kind, self.facts, self.before])


class Ledger:
    """The events of one plan, in SQLite: write-ahead log, one transaction an event, synced to the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, kind: Kind, **facts: Any) -> LedgerEvent:
        """Add an event; it is on the disk when this returns.

        Raises:
            OutputError: the file cannot be written.
        """
        with self._open() as database, database:
            database.executescript(SCHEMA)
            database.execute("BEGIN IMMEDIATE")
            newest = database.execute(
                "SELECT number, hash FROM events ORDER BY number DESC LIMIT 1"
            ).fetchone()
            number, before = (newest[0] + 1, newest[1]) if newest else (1, CHAIN_START)
            time = datetime.now(UTC).isoformat(timespec="milliseconds")
            facts = json.loads(json.dumps(facts))  # what is hashed is what will be read
            event = LedgerEvent(
                number, time, kind, facts, before, hash_json([number, time, kind, facts, before])
            )
            database.execute(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)",
                (number, time, kind, json.dumps(facts, ensure_ascii=False), before, event.hash),
            )
        return event

    def events(self, *kinds: Kind) -> list[LedgerEvent]:
        """All events in their order, or those of some kinds.

        Raises:
            OutputError: the file cannot be read, or an entry is not one that this program writes.
        """
        if not self.path.exists():
            return []
        with self._open() as database:
            rows = database.execute(
                "SELECT number, time, kind, facts, before, hash FROM events ORDER BY number"
            ).fetchall()
        events = [self._event(row) for row in rows]
        return [event for event in events if not kinds or event.kind in kinds]

    def _event(self, row: tuple[Any, ...]) -> LedgerEvent:
        try:
            return _read(*row)
        except ValueError as error:
            raise OutputError(
                f"the ledger {self.path}, entry {row[0]}",
                why=f"it is not as a run writes it: {explain(error)}",
                fix="Restore it from a copy.",
            ) from error

    @property
    def head(self) -> str:
        """The hash of the newest event: keep it elsewhere, and nothing can be cut off unnoticed."""
        events = self.events()
        return events[-1].hash if events else CHAIN_START

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=60, isolation_level=None)) as database:
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("PRAGMA synchronous = FULL")
                yield database
        except sqlite3.Error as error:
            raise OutputError(
                f"the ledger {self.path}",
                why=f"{error}.",
                fix="Check that it is whole and can be written.",
            ) from error


def _read(number: int, *texts: Any) -> LedgerEvent:
    """An event from its columns.

    Raises:
        ValueError: they do not hold what events of its kind do.
    """
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("it holds bytes or a number where text belongs")
    time, kind, facts, before, own = texts
    if kind not in FACTS:
        raise ValueError(f"there is no event of the kind {kind!r}")
    facts = load_json(facts)
    FACTS[kind].model_validate(facts)
    return LedgerEvent(number, time, kind, facts, before, own)


def broken_links(events: Sequence[LedgerEvent], *, head: str | None = None) -> list[str]:
    """What is wrong with a chain of events, in words; nothing if it is whole.

    ``head`` is a hash noted earlier: it must be one of the chain's.
    """
    wrong = [f"ledger: {fault}" for fault in chain_faults(events)]
    if head is not None and head not in {event.hash for event in events}:
        wrong.append(f"ledger: it no longer holds the entry {head}")
    return wrong
