from __future__ import annotations

import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from expunge.errors import OutputError
from expunge.record import CHAIN_START
from expunge.shards.ledger import Ledger, broken_links

SLICE = {"shard": 0, "slice": 0, "weights": "0", "examples": 1}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.append("planned", manifest="0", examples=3)
    ledger.append("requested", ids=["é", "b"], touched=[(0, 1)])
    ledger.append("deleted", requests=[2], examples=4)
    return ledger


def test_a_chain_of_events_is_read_as_it_was_written(ledger: Ledger) -> None:
    events = ledger.events()
    assert [event.number for event in events] == [1, 2, 3]
    assert events[0].before == CHAIN_START
    assert events[1].before == events[0].hash
    assert events[1].facts == {"ids": ["é", "b"], "touched": [[0, 1]]}
    assert ledger.head == events[2].hash
    assert [event.kind for event in ledger.events("requested", "deleted")] == ["requested", "deleted"]
    assert broken_links(events, head=events[1].hash) == []


def test_nothing_can_be_changed_or_taken_out_by_accident(ledger: Ledger) -> None:
    database = sqlite3.connect(ledger.path)
    for statement in ("UPDATE events SET kind = 'x'", "DELETE FROM events WHERE number = 2"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            database.execute(statement)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


def test_what_was_done_to_it_on_purpose_is_found(ledger: Ledger) -> None:
    first, second, third = ledger.events()
    changed = replace(second, facts={"ids": ["b"], "touched": [[0, 1]]})
    assert broken_links([first, changed, third]) == ["ledger: entry 2 was changed"]
    forged = replace(changed, hash=changed.expected_hash)
    assert broken_links([first, forged, third]) == ["ledger: entry 3 does not follow the one before it"]
    assert len(broken_links([first, third])) == 2
    assert broken_links([first, second]) == []
    assert broken_links([first, second], head=third.hash) == [
        f"ledger: it no longer holds the entry {third.hash}"
    ]


def test_writers_side_by_side_make_one_chain(ledger: Ledger) -> None:
    def write() -> None:
        for number in range(5):
            ledger.append("trained", key=str(number), **SLICE)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ledger.events()) == 18
    assert broken_links(ledger.events()) == []


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("not a database, whatever it is called" * 40)
    with pytest.raises(OutputError, match="not a database"):
        Ledger(tmp_path / "ledger.sqlite").events()


def test_without_a_file_nothing_happened(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "none.sqlite")
    assert ledger.events() == []
    assert ledger.head == CHAIN_START


@pytest.mark.parametrize(
    ("kind", "facts", "complaint"),
    [
        ("planned", '{"examples": 3}', "manifest"),
        ("planned", "[" * 5000 + "]" * 5000, "nested"),
        ("planned", '{"manifest": ', "Expecting"),
        ("requested", '{"ids": "b", "touched": []}', "ids"),
        ("requested", '{"ids": ["b"], "touched": [[0]]}', "touched"),
        ("requested", '{"ids": ["b"], "touched": [[0, -1]]}', "touched"),
        ("deleted", '{"requests": [null]}', "requests"),
        ("sold", "{}", "'sold'"),
        ("planned", b"\xff", "bytes"),
    ],
)
def test_an_entry_that_no_run_writes_is_refused(
    ledger: Ledger, kind: str, facts: str | bytes, complaint: str
) -> None:
    database = sqlite3.connect(ledger.path)
    database.execute(
        "INSERT INTO events VALUES (4, '2026-01-01', ?, ?, ?, '0')", (kind, facts, ledger.head)
    )
    database.commit()
    database.close()
    with pytest.raises(OutputError, match="entry 4") as refused:
        ledger.events()
    assert complaint in refused.value.why
