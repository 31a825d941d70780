"""The ledger of a checkpoint's forget requests: an append-only file next to its weights.

Every entry holds the hash of the one before, and the newest the hash of the weights. What is changed, taken
out or cut off is noticed; who rewrites all of it, only by a hash that was noted elsewhere. Of what was
forgotten it holds hashes, never the text. A guessed text can be confirmed by its hash, so the ledger
of short secrets is no public document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ValidationError

from expunge.component import Component
from expunge.corpus.formats import write_examples
from expunge.corpus.readers import read_examples
from expunge.errors import DataError, OutputError
from expunge.files import RECORD, nothing, require_writable, write_text
from expunge.parsing import load_json
from expunge.record import CHAIN_START, chain_faults, hash_json
from expunge.registry import explain
from expunge.types import Example

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


class PastRequest(NamedTuple):
    """An earlier request and its forget set; ``missing`` is the reason if that is not available."""

    entry: RequestEntry
    examples: tuple[Example, ...] = ()
    missing: str | None = None


class RequestStatus(NamedTuple):
    """Scores on a request's texts, 0-100: before unlearning, right after, and now."""

    number: int
    time: str
    forget_file: str
    examples: int
    metric: str
    before: float | None
    then: float | None
    now: float | None
    verdict: str


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


def look_up(entry: RequestEntry) -> PastRequest:
    """The forget set of an earlier request, from its path in the ledger."""
    if not Path(entry.forget_file).exists():
        return PastRequest(
            entry, missing="its file is not there any more; give it with --reforget if you have it"
        )
    try:
        examples = tuple(read_examples(entry.forget_file, fields=entry.fields))
    except DataError as error:
        return PastRequest(entry, missing=f"its file cannot be read ({error.why.rstrip('.')})")
    if hash_set(examples) != entry.forget_sha256:
        return PastRequest(entry, missing="its file holds something else now")
    return PastRequest(entry, examples)


def hash_set(examples: Sequence[Example]) -> str:
    """The hash of everything in a set, as records state it."""
    return hash_json([asdict(example) for example in examples])


# All that the requests of a checkpoint forgot, in one file, so that an audit can ask for all of it.


class Gathered(NamedTuple):
    """How much was written, and what could not be."""

    requests: int
    examples: int
    missing: tuple[str, ...]


def recorded(model: Path) -> list[dict[str, Any]]:
    """The status of every request after the newest one, from the record of its run.

    Raises:
        DataError: there is no ledger, or it was tampered with.
    """
    entries = _entries(model)
    record = _record(model)
    check_model(entries, model, record.result_sha256)
    return [request._asdict() for request in record.requests]


def gathered(model: Path, output: Path) -> Gathered:
    """Write the forget sets of all requests whose files exist; ids begin with a request's number.

    Raises:
        OutputError: ``output`` is there already.
        DataError: none of the files is there any more.
    """
    require_writable(output)
    if output.exists():
        raise OutputError(
            f"{output} already exists",
            why="existing files are not overwritten.",
            fix="Choose another file, or remove the existing one.",
        )
    earlier = [look_up(entry) for entry in _entries(model)]
    available = [one for one in earlier if not one.missing]
    if not available:
        raise DataError(
            f"the requests of {model}",
            why="none of their files is at its recorded path.",
            fix="Restore them, or audit with the files you have.",
        )
    examples = [
        replace(example, id=f"{one.entry.number}/{example.id}")
        for one in available
        for example in one.examples
    ]
    write_examples(output, examples, may_replace=nothing, private=True)
    missing = (f"request {one.entry.number} is left out: {one.missing}." for one in earlier if one.missing)
    return Gathered(len(available), len(examples), tuple(missing))


def _entries(model: Path) -> tuple[RequestEntry, ...]:
    entries = read_ledger(model)
    if not entries:
        raise DataError(
            f"{model}",
            why=f"it has no {LEDGER}, so it was not unlearned by expunge.",
            fix="Pass a folder that 'expunge unlearn' wrote.",
        )
    return entries


class _Record(BaseModel):
    """The part of a checkpoint's record that is read here."""

    result_sha256: str
    requests: list[RequestStatus]


def _record(model: Path) -> _Record:
    path = model / RECORD
    try:
        return _Record.model_validate(load_json(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise DataError(
            f"the record {path}",
            why=f"it does not contain the status of the requests: {explain(error)}",
            fix="Use the folder as the run wrote it.",
        ) from error
