"""Every item of an audit: its texts, and what each model got and said under each transform."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from expunge.audit.plan import FULL
from expunge.audit.saved import SCORES, invalid
from expunge.audit.store import read_long

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

    from expunge.report.run import Run

PROMPT, TRUTH, SAID = ("question", "prompt"), "truth", "said"
"""What metrics call the text a model was given, what should follow and what did."""
UNSHOWN = {*PROMPT, TRUTH, SAID, "shots"}
NO_ITEM = "(none)"
"""The row of a metric that could say nothing of a split."""


@dataclass
class Item:
    """One item of one metric: its texts and what each model got under each transform."""

    metric: str
    split: str
    item: str
    group: str | None
    prompt: str = ""
    truth: str = ""
    values: dict[int, float] = field(default_factory=dict)
    said: dict[int, str] = field(default_factory=dict)
    unscored: dict[int, str] = field(default_factory=dict)

    @property
    def texts(self) -> Iterator[str]:
        """Every text of the item."""
        yield from (self.prompt, self.truth, *self.said.values())

    def rise(self, starts: Iterable[int], width: int) -> float:
        """The largest rise of any model over its own value at full precision (column 0)."""
        rises = [
            self.values[cell] - self.values[start]
            for start in starts
            for cell in range(start + 1, start + width)
            if start in self.values and cell in self.values
        ]
        return max(rises, default=0.0)


def read_items(run: Run) -> list[Item]:
    """Every item of the Parquet file, in its order. A cell is model x transform, full precision first."""
    labels = [FULL.label, *run.grids]
    cells = {
        (model.name, label): place * len(labels) + column
        for place, model in enumerate(run.checkpoints)
        for column, label in enumerate(labels)
    }
    found: dict[tuple[str, str, str], Item] = {}
    for row in _rows(run, cells):
        if row["item"] == NO_ITEM:
            continue
        key = (row["metric"], row["split"], row["item"])
        item = found.get(key) or found.setdefault(key, Item(*key, group=row["group"]))
        cell = cells[row["model"], row["transform"]]
        if row["value"] is None:
            item.unscored[cell] = row["unscored"] or "no reason given"
        else:
            item.values[cell] = round(row["value"], 3)
        _add_texts(item, cell, row["detail"])
    return list(found.values())


def _add_texts(item: Item, cell: int, detail: Mapping[str, str]) -> None:
    if not item.prompt:
        item.prompt = next((detail[name] for name in PROMPT if detail.get(name)), "")
    if not item.truth:
        item.truth = detail.get(TRUTH, "")
    said = detail.get(SAID)
    if said is None:  # another metric's own words: all of them, by name
        said = "; ".join(f"{name}: {text}" for name, text in detail.items() if name not in UNSHOWN)
    if said:
        item.said[cell] = said


def _rows(run: Run, known: Container[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """The rows of the Parquet file; all of them of a model and a transform of the summary."""
    path = run.folder / SCORES
    if not path.is_file():
        return
    for row in read_long(path):
        if (row["model"], row["transform"]) not in known or row["metric"] not in run.metrics:
            place = f"{row['model']!r}, {row['transform']!r}, {row['metric']!r}"
            raise invalid(path, ValueError(f"summary.json has no model, transform and metric {place}"))
        yield row
