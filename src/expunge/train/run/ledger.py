"""The ledger of a checkpoint's forget requests: an append-only file next to its weights.

Every entry holds the hash of the one before, and the newest the hash of the weights. What is changed, taken
out or cut off is noticed; who rewrites all of it, only by a hash that was noted elsewhere. Of what was
forgotten it holds hashes, never the text. A guessed text can be confirmed by its hash, so the ledger
of short secrets is no public document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from expunge.component import Component
from expunge.errors import DataError
from expunge.files import RECORD, write_text
from expunge.parsing import load_json
from expunge.record import CHAIN_START, chain_faults, hash_json

LEDGER = "ledger.jsonl"


class RequestEntry(Component):
    """One request: when, by which recipe, from which weights to which, and what was forgotten.

    ``known_before`` and ``known_after`` are what was known of it (``metric``, 0-100) around its own run;
    None where nothing of it can be scored. Its questions came after solved ones of hash ``solved_sha256``,
    None where there were none. ``fields`` say how its file was read, ``still`` which earlier
    requests were trained once more. Hashes are SHA-256; ``before`` is that of the entry before.
    """

    number: int
    time: str
    recipe: str
    recipe_sha256: str
    source_sha256: str
    result_sha256: str
    forget_file: str
    fields: dict[str, str]
    forget_sha256: str
    examples: tuple[str, ...]
    still: tuple[int, ...]
    metric: Literal["KnowMem", "VerMem"]
    known_before: float | None
    known_after: float | None
    solved_sha256: str | None = None
    before: str
    hash: str

    @property
    def expected_hash(self) -> str:
        """The hash that the entry should have."""
        return _hash(self.model_dump(mode="json", exclude={"hash"}))


def following(entries: Sequence[RequestEntry], facts: Mapping[str, Any]) -> RequestEntry:
    """The next entry of a ledger, made now."""
    facts = {
        **facts,
        "number": len(entries) + 1,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "before": entries[-1].hash if entries else CHAIN_START,
    }
    return RequestEntry.model_validate({**facts, "hash": _hash(facts)})


def write_ledger(entries: Sequence[RequestEntry], folder: Path) -> None:
    """Write the whole ledger into a checkpoint's folder."""
    write_text(folder / LEDGER, "".join(f"{entry.model_dump_json()}\n" for entry in entries))


def read_ledger(folder: Path) -> tuple[RequestEntry, ...]:
    """The requests a checkpoint has been through, in their order; none where it has no ledger.

    Raises:
        DataError: it was tampered with, or is missing although the record lists requests.
    """
    path = folder / LEDGER
    if not path.is_file():
        _refuse_missing(folder)
        return ()
    entries: list[RequestEntry] = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise tampered(path, "it is not UTF-8 text") from error
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, start=1):
        try:
            entries.append(RequestEntry.model_validate_json(line))
        except ValidationError as error:
            raise tampered(path, f"entry {number} cannot be read") from error
    for fault in chain_faults(entries):
        raise tampered(path, fault)
    if not entries:
        raise tampered(path, "it is empty")
    return tuple(entries)


def check_model(entries: Sequence[RequestEntry], folder: Path, model_sha256: str) -> None:
    """Refuse a ledger that ends with other weights than those in its folder.

    Raises:
        DataError: they are not those the newest request left.
    """
    if entries and entries[-1].result_sha256 != model_sha256:
        raise tampered(folder / LEDGER, "the weights are not those its newest entry left")


def tampered(path: Path, what: str) -> DataError:
    """The refusal of a ledger that cannot be believed."""
    return DataError(
        f"the ledger {path}",
        why=f"{what}: it was changed, cut off, or belongs to another model.",
        fix="Use the folder as the run wrote it; to begin a new ledger knowingly, move this file and "
        f"{RECORD} away.",
    )


def _refuse_missing(folder: Path) -> None:
    try:
        record = load_json((folder / RECORD).read_bytes())
    except (OSError, ValueError):  # no record, or one without requests
        return
    requests = record.get("requests") if isinstance(record, dict) else None
    if isinstance(requests, list) and requests:  # in the record of a merge it is a number
        raise tampered(folder / LEDGER, f"it is missing, but {RECORD} lists {len(requests)} requests")


def _hash(facts: Mapping[str, Any]) -> str:
    # Entries older than the field have no such key: without one, the hash is what it was.
    return hash_json(
        {key: value for key, value in sorted(facts.items()) if (key, value) != ("solved_sha256", None)}
    )
