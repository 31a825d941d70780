"""Checkpoints that are one recipe run with several seeds: told by the user, or by their records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from expunge.audit.sources import record_beside
from expunge.errors import RecipeError
from expunge.record import hash_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SAME = ("recipe", "source_sha256", "forget", "retain", "save_dtype")
"""What the records of two seeds have in common: everything a run was asked for but its seed."""


def parse_seeds(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """``["npo=runs/s0,runs/s1"]`` as ``{"npo": ("runs/s0", "runs/s1")}``.

    Raises:
        RecipeError: an entry is not of that form, or names a recipe again.
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, _, paths = text.partition("=")
        members = tuple(path for path in paths.split(",") if path)
        if not name or not members:
            raise RecipeError(
                f"--seeds-of {text}",
                why="it is not of the form NAME=path,path.",
                fix="For instance --seeds-of npo=runs/seed0,runs/seed1,runs/seed2",
            )
        if name in found:
            raise RecipeError(
                f"--seeds-of {text}",
                why=f"the seeds of {name!r} are named twice.",
                fix="Put all of its checkpoints into one --seeds-of.",
            )
        found[name] = members
    return found


def recorded_seeds(checkpoints: Mapping[str, Path], *, taken: set[str]) -> dict[str, tuple[str, ...]]:
    """Of named checkpoints, those whose records differ in nothing but the seed, by their recipe's name.

    What expunge did not make has no such record and stands for itself. No name of ``taken`` is given.
    """
    alike: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for name, path in checkpoints.items():
        record = record_beside(path)
        if record is not None and record.keys() >= {*SAME, "seed"} and isinstance(record["recipe"], dict):
            alike.setdefault(hash_json([record[key] for key in SAME]), []).append((name, record))
    found: dict[str, tuple[str, ...]] = {}
    for runs in alike.values():
        if len({str(run["seed"]) for _, run in runs}) == len(runs) > 1:
            recipe = _free(str(runs[0][1]["recipe"].get("name", "recipe")), taken | found.keys())
            found[recipe] = tuple(name for name, _ in runs)
    return found


def _free(name: str, taken: set[str]) -> str:
    """``name``, or what is next to it and not yet a name of the audit."""
    candidates = (name if count == 1 else f"{name} ({count})" for count in range(1, len(taken) + 2))
    return next(candidate for candidate in candidates if candidate not in taken)
