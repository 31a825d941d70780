"""Provenance: what ran, on what, with which versions, how long and how much memory."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

PACKAGES = (
    "expunge torch transformers tokenizers accelerate peft datasets bitsandbytes numpy scipy "
    "llmcompressor compressed-tensors torchao gguf llama-cpp-python lm-eval"
).split()

_CHUNK = 1 << 20


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def hash_folder(folder: Path, *, patterns: Iterable[str] = ("*",), without: Iterable[str] = ()) -> str:
    """SHA-256 over the names and bytes of a folder's files but ``without``, in the order of their names."""
    left_out = set(without)
    files = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    names = sorted(path for path in files if path.name not in left_out)
    return hash_json({path.relative_to(folder).as_posix(): hash_file(path) for path in names})


def hash_json(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def versions() -> dict[str, str]:
    """The version of every package that can change a number; absent ones are left out."""
    version_by_name = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            version_by_name[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return version_by_name


def hardware() -> dict[str, Any]:
    """Processor, cores and (when torch is loaded) accelerator, in words."""
    facts: dict[str, Any] = {
        "machine": platform.machine(),
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        facts["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            facts["accelerator"] = torch.cuda.get_device_name()
    return facts


def peak_memory_mib() -> float:
    """The largest resident size of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / _CHUNK


@dataclass
class Stopwatch:
    """Seconds since it was made, on the wall and of this process's threads, and that moment (UTC)."""

    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    _tick: float = field(default_factory=time.perf_counter)
    _worked: float = field(default_factory=time.process_time)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._tick

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of this process, which other work on the machine does not lengthen."""
        return time.process_time() - self._worked


def make_record(*, command: str, watch: Stopwatch, **facts: Any) -> dict[str, Any]:
    """A run's record: ``facts`` (recipe, seeds, hashes, ...) with versions, hardware and cost."""
    return {
        "command": command,
        "typed": sys.argv[1:],
        **facts,
        "versions": versions(),
        "hardware": hardware(),
        "started": watch.started,
        "seconds": round(watch.seconds, 2),
        "cpu_seconds": round(watch.cpu_seconds, 2),
        "peak_memory_mib": round(peak_memory_mib(), 1),
    }


# A hash chain: entries of which each holds the hash of the one before, so that a change is noticed.

CHAIN_START = "0" * 64
"""What the first entry holds for the hash of the one before."""


class ChainEntry(Protocol):
    """An entry of a ledger: its number from 1, the hash before it, its own, and what that should be."""

    @property
    def number(self) -> int:
        """Its place in the chain, from 1."""

    @property
    def before(self) -> str:
        """The hash of the entry before it."""

    @property
    def hash(self) -> str:
        """Its own hash, as it was written."""

    @property
    def expected_hash(self) -> str:
        """The hash of what it holds."""


def chain_faults(entries: Iterable[ChainEntry]) -> Iterator[str]:
    """What is wrong with a chain, in its order and in words; nothing if it is whole."""
    before = CHAIN_START
    for number, entry in enumerate(entries, start=1):
        if entry.before != before:
            yield f"entry {number} does not follow the one before it"
        if entry.number != number:
            yield f"entry {number} has the number {entry.number}"
        if entry.hash != entry.expected_hash:
            yield f"entry {number} was changed"
        before = entry.hash
