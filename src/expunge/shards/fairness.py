"""Fair decisions from a file of votes: fitted on some items, measured on others, served without a coin."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import numpy as np

from expunge.corpus.formats import READERS, Reader
from expunge.corpus.rows import DataRow, kind
from expunge.errors import DataError, RecipeError, did_you_mean
from expunge.files import claim_file, nothing, write_text
from expunge.shards.fair import (
    Constraint,
    Fairness,
    Ints,
    MajorityVote,
    Predictor,
    Table,
    fairness,
    fit_after,
    fit_before,
    fit_within,
)
from expunge.shards.plan import number_of

HASHES = 1 << 63
"""How many numbers a hash takes."""


class Ballots(NamedTuple):
    """Items with their votes [n, S], labels [n] and groups [n]; a file to decide may lack labels."""

    ids: list[str]
    votes: Ints
    label: Ints
    group: Ints


@dataclass(frozen=True, kw_only=True)
class FairJob:
    """A file of votes to calibrate on, one to measure on, one to decide."""

    calibration: Path
    heldout: Path | None = None
    data: Path | None = None
    output: Path | None = None
    constraint: str = "odds"
    slack: float = 0.0
    method: str = "in"

    def run(self) -> dict[str, Any]:
        """Fit, measure, decide.

        Raises:
            DataError: a row lacks something, or a group lacks a label.
            RecipeError: the constraint or the method is unknown, or only one of data and output is given.
        """
        constraint = cast("Constraint", _known(self.constraint, get_args(Constraint), "--constraint"))
        method = _known(self.method, ("pre", "in", "post"), "--method")
        if (self.data is None) != (self.output is None):
            raise RecipeError(
                "--data and --output", why="one is the input, the other the output.", fix="Pass both."
            )
        if self.data is not None and self.output is not None:
            claim_file(self.output, source=str(self.data), overwrite=None)
        rows = read_rows(self.calibration)
        names = sorted({str(row["group"]) for row in rows if row.get("group") is not None})
        ballots = as_ballots(self.calibration, rows, names)
        table = table_of(self.calibration, ballots, names)
        fitted = predictors(table, constraint=constraint, slack=self.slack)
        report = {"calibration": measured(table, fitted)}
        if self.heldout is not None:
            held = as_ballots(self.heldout, read_rows(self.heldout), names)
            report["held out"] = measured(table_of(self.heldout, held, names), fitted)
        decided = self._decide(fitted[method], names) if self.data and self.output else 0
        return {"table": as_text(report), "report": report, "groups": names, "decided": decided}

    def _decide(self, predictor: Predictor, names: Sequence[str]) -> int:
        data, output = cast("Path", self.data), cast("Path", self.output)
        rows = read_rows(data)
        ballots = as_ballots(data, [{**row, "label": 0} for row in rows], names)
        chances = predictor(ballots.votes, ballots.group).tolist()
        lines = [
            json.dumps({"id": name, "decision": decide(name, chance), "chance": chance})
            for name, chance in zip(ballots.ids, chances, strict=True)
        ]
        write_text(output, "".join(f"{line}\n" for line in lines), may_replace=nothing)
        return len(lines)


def decide(identity: str, chance: float, *, seed: int = 0) -> int:
    """1 with a chance that a hash of the id settles: the same item is always decided alike."""
    return int(number_of(seed, "decide", identity) < chance * HASHES)


def predictors(table: Table, *, constraint: Constraint, slack: float) -> dict[str, Predictor]:
    """The majority as it is, and corrected before, in and after aggregation."""
    return {
        "plain": MajorityVote(),
        "pre": fit_before(table, constraint=constraint, slack=slack),
        "in": fit_within(table, constraint=constraint, slack=slack),
        "post": fit_after(table, constraint=constraint, slack=slack),
    }


def measured(table: Table, fitted: dict[str, Predictor]) -> dict[str, Fairness]:
    """What each predictor does on a table."""
    return {name: fairness(table, predictor) for name, predictor in fitted.items()}


def as_text(report: dict[str, dict[str, Fairness]]) -> str:
    """The report as lines of a table."""
    lines = [f"{'on':<12} {'method':<7} {'accuracy':>8} {'balanced':>8} {'gap':>7} {'average':>7}"]
    lines += [
        f"{where:<12} {name:<7} {1 - one.error:>8.3f} {one.balanced_accuracy:>8.3f} "
        f"{one.gap:>7.3f} {one.average_gap:>7.3f}"
        for where, rate in report.items()
        for name, one in rate.items()
    ]
    return "\n".join(lines)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of votes.

    Raises:
        DataError: there is no such file, or a row is no object.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None or not path.is_file():
        raise DataError(
            str(path),
            why="it cannot be read as a file of rows.",
            fix="Pass what 'shards predict' wrote.",
        )
    rows = []
    for row in _read(reader, path):
        if not isinstance(row.values, dict):
            raise DataError(
                row.where,
                why=f"the row is {kind(row.values)}, not an object with named fields.",
                fix="Pass what 'shards predict' wrote.",
            )
        rows.append(row.values)
    if not rows:
        raise DataError(str(path), why="it holds no rows.", fix="Check that this is the right file.")
    return rows


def _read(reader: Reader, path: Path) -> list[DataRow]:
    try:
        return list(reader(path))
    except OSError as error:
        raise DataError(
            str(path), why=f"{error.strerror or error}.", fix="Check that the file can be read."
        ) from error


def table_of(path: Path, ballots: Ballots, names: Sequence[str]) -> Table:
    """The votes of a file as a table.

    Raises:
        DataError: the file, or one of its groups, has rows of one label only.
    """
    for place, name in [(None, None), *enumerate(names)]:
        labels = ballots.label if place is None else ballots.label[ballots.group == place]
        present = sorted(set(labels.tolist()))
        if len(present) < 2:
            rows = "every row" if name is None else f"every row of group {name!r}"
            raise DataError(
                str(path),
                why=f"{rows} has label {present[0]}, so true and false positive rates are unknown."
                if present
                else f"it has no row of group {name!r}, so its rates are unknown.",
                fix="Give rows of both labels in every group; the label of 'shards predict' says which of "
                "the two options is right.",
            )
    return Table.of(ballots.votes, ballots.label, ballots.group, groups=len(names))


def as_ballots(path: Path, rows: Sequence[dict[str, Any]], groups: Sequence[str]) -> Ballots:
    """Rows with ``votes``, ``label`` and ``group`` as arrays.

    Raises:
        DataError: naming the row and what is wrong with it.
    """
    first = rows[0].get("votes")
    members = len(first) if isinstance(first, list) else 0
    for number, row in enumerate(rows, start=1):
        _check(row, f"{path}, row {number}", groups, members)
    return Ballots(
        ids=[str(row.get("id", number)) for number, row in enumerate(rows)],
        votes=np.array([row["votes"] for row in rows], dtype=np.int64),
        label=np.array([row["label"] for row in rows], dtype=np.int64),
        group=np.array([groups.index(str(row["group"])) for row in rows], dtype=np.int64),
    )


def _check(row: dict[str, Any], where: str, groups: Sequence[str], members: int) -> None:
    missing = [name for name in ("votes", "label", "group") if row.get(name) is None]
    if missing:
        raise DataError(
            where,
            why=f"it has no {missing[0]!r}.",
            fix="'shards predict' writes votes on questions with one wrong answer each and a group.",
        )
    votes = row["votes"]
    if not isinstance(votes, list) or not votes:
        raise DataError(
            where, why="its 'votes' are not a list of votes.", fix="Write one 0 or 1 per member."
        )
    if len(votes) != members or any(vote not in (0, 1) for vote in (*votes, row["label"])):
        raise DataError(
            where, why="votes and labels are 0 or 1, as many votes as in the first row.", fix="Correct it."
        )
    if str(row["group"]) not in groups:
        raise DataError(
            where,
            why=f"the calibration knows no group {row['group']!r}.",
            fix=did_you_mean(str(row["group"]), groups),
        )


def _known(name: str, known: Sequence[str], option: str) -> str:
    if name not in known:
        raise RecipeError(f"{option} {name}", why="there is no such choice.", fix=did_you_mean(name, known))
    return name
