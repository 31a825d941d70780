"""The items of an audit for the page: texts and answers, masked or revealed."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from markupsafe import Markup

from expunge.audit.run.plan import FULL
from expunge.audit.saved import SCORES, invalid
from expunge.audit.store import read_long
from expunge.inference.leakage import segments, shape
from expunge.report.numbers import digits_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

    from expunge.report.run import AuditRun

TEXT_BUDGET = 4_000_000
"""Characters of text a page carries."""
CAPS = (100_000, 20_000, 4_000, 1_000, 400, 150, 60)
"""Characters kept of one text: the first of these with which all texts fit."""

Shown = str | tuple[str, ...]
"""A text, or an answer cut where the leaked words begin and end."""


class TextPool(Protocol):
    """Turns texts and names into what the page shows of them."""

    def text(self, text: str) -> Shown:
        """A prompt or a truth."""

    def said(self, truth: str, said: str) -> Shown:
        """An answer with its leaked words."""

    def name(self, kind: str, name: str) -> str:
        """What an item or a group is called."""


@dataclass
class Masked:
    """No text and no name: words as marks, items and groups by number in the order of the audit."""

    numbers: dict[tuple[str, str], str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def text(self, text: str) -> Shown:
        """The number of words, and nothing of what they are."""
        return shape("", text)

    def said(self, truth: str, said: str) -> Shown:
        """Which words are leaked, and nothing of what they are."""
        return _shape(truth, said)

    def name(self, kind: str, name: str) -> str:
        """The kind and a number."""
        if (kind, name) not in self.numbers:
            self.counts[kind] += 1
            self.numbers[kind, name] = f"{kind} {self.counts[kind]}"
        return self.numbers[kind, name]


@dataclass
class Revealed:
    """Texts as they are, cut after ``cap`` characters so that a page stays light."""

    cap: int

    def text(self, text: str) -> Shown:
        """The text as it is."""
        return clip(text, self.cap)

    def said(self, truth: str, said: str) -> Shown:
        """The answer cut where marking begins and ends."""
        return _segments(clip(truth, self.cap), clip(said, self.cap))

    def name(self, kind: str, name: str) -> str:  # noqa: ARG002
        """The name as it is."""
        return name


def pool_for(items: Iterable[ReportItem], *, reveal: bool) -> TextPool:
    """What is shown of the items' texts; the longest ones are cut if they are too much for a page."""
    if not reveal:
        return Masked()
    lengths = [len(text) for text in {text for item in items for text in item.texts}]
    fitting = (cap for cap in CAPS if sum(min(length, cap) for length in lengths) <= TEXT_BUDGET)
    return Revealed(next(fitting, CAPS[-1]))


def clip(text: str, cap: int) -> str:
    """A text, or its beginning and how much more there is."""
    more = len(text) - cap
    return text if more <= 0 else f"{text[:cap]}… [{more:,} more characters in the Parquet file]"


@lru_cache(maxsize=1 << 16)
def _shape(truth: str, said: str) -> str:
    return shape(truth, said)


@lru_cache(maxsize=1 << 16)
def _segments(truth: str, said: str) -> tuple[str, ...]:
    return tuple(segments(truth, said)) if said else ()


# Every item of an audit: its texts, and what each model got and said under each condition.

PROMPT, TRUTH, SAID = ("question", "prompt"), "truth", "said"
"""What metrics call the text a model was given, what should follow and what did."""
UNSHOWN = {*PROMPT, TRUTH, SAID, "shots"}
NO_ITEM = "(none)"
"""The row of a metric that could say nothing of a split."""


@dataclass
class ReportItem:
    """One item of one metric: its texts and what each model got under each condition."""

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


def read_items(run: AuditRun) -> list[ReportItem]:
    """Every item of the Parquet file, in its order. A cell is model x condition, full precision first."""
    labels = [FULL.label, *run.grids]
    cells = {
        (model.name, label): place * len(labels) + column
        for place, model in enumerate(run.checkpoints)
        for column, label in enumerate(labels)
    }
    found: dict[tuple[str, str, str], ReportItem] = {}
    for row in score_rows(run, cells):
        if row["item"] == NO_ITEM:
            continue
        key = (row["metric"], row["split"], row["item"])
        item = found.get(key) or found.setdefault(key, ReportItem(*key, group=row["group"]))
        cell = cells[row["model"], row["condition"]]
        if row["value"] is None:
            item.unscored[cell] = row["unscored"] or "no reason given"
        else:
            item.values[cell] = round(row["value"], 3)
        _add_texts(item, cell, row["detail"])
    return list(found.values())


def _add_texts(item: ReportItem, cell: int, detail: Mapping[str, str]) -> None:
    if not item.prompt:
        item.prompt = next((detail[name] for name in PROMPT if detail.get(name)), "")
    if not item.truth:
        item.truth = detail.get(TRUTH, "")
    said = detail.get(SAID)
    if said is None:  # another metric's own words: all of them, by name
        said = "; ".join(f"{name}: {text}" for name, text in detail.items() if name not in UNSHOWN)
    if said:
        item.said[cell] = said


def score_rows(run: AuditRun, known: Container[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """The rows of the Parquet file; all of them of a model and a condition of the summary."""
    path = run.folder / SCORES
    if not path.is_file():
        return
    for row in read_long(path):
        row["model"] = run.names.get(row["model"], row["model"])
        if (row["model"], row["condition"]) not in known or row["metric"] not in run.metrics:
            place = f"{row['model']!r}, {row['condition']!r}, {row['metric']!r}"
            raise invalid(path, ValueError(f"summary.json has no model, condition and metric {place}"))
        yield row


# The items as compact JSON in the page, from which its script draws them row by row.
#
# Masked, no text is in it, nor what an item or group is called: only numbers, and of each answer
# which of its words are leaked.

MOST_NUMBERS = 400_000
"""Numbers a page carries; the items that rose least are left to the Parquet file."""


def payload(run: AuditRun, items: Sequence[ReportItem], *, reveal: bool) -> dict[str, Any]:
    """What the page's script needs."""
    width, models = 1 + len(run.grids), len(run.checkpoints)
    kept = _most_risen(items, width, models)
    pool = pool_for(kept, reveal=reveal)
    metrics = list(dict.fromkeys(item.metric for item in kept))
    texts: dict[Shown, int] = {}
    packed = [_packed(item, metrics.index(item.metric), width * models, pool, texts) for item in kept]
    return {
        "reveal": reveal,
        "models": [{"name": model.name, "role": model.role} for model in run.checkpoints],
        "conditions": [FULL.label, *run.grids],
        "metrics": [
            {
                "name": name,
                "title": run.metrics[name].title,
                "lower": run.metrics[name].lower_is_better,
                "digits": digits_of(run.metrics[name].scale),
            }
            for name in metrics
        ],
        "lead": run.lead,
        "left": len(items) - len(kept),
        "cap": pool.cap if isinstance(pool, Revealed) else 0,
        "items": packed,
        "texts": list(texts),
    }


def embedded(value: Any) -> Markup:
    """A value as JSON that cannot end the element it stands in, whatever its strings hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - escaped above, and read by JSON.parse alone


def _most_risen(items: Sequence[ReportItem], width: int, models: int) -> list[ReportItem]:
    """As many items as a page carries: the same number of each metric, those that rose most."""
    by_metric: dict[str, list[ReportItem]] = defaultdict(list)
    for item in items:
        by_metric[item.metric].append(item)
    if len(items) * width * models <= MOST_NUMBERS:
        return list(items)
    share = MOST_NUMBERS // (width * models * len(by_metric))
    starts = range(0, width * models, width)
    chosen = {
        id(item)
        for own in by_metric.values()
        for item in sorted(own, key=lambda item: -item.rise(starts, width))[:share]
    }
    return [item for item in items if id(item) in chosen]


def _packed(
    item: ReportItem, metric: int, cells: int, pool: TextPool, texts: dict[Shown, int]
) -> list[Any]:
    """Metric, name, group, prompt, truth, then by cell: values, answers, reasons for no value."""

    def number(text: Shown) -> int:
        return texts.setdefault(text, len(texts)) if text else -1

    said = [
        number(pool.said(item.truth, item.said[cell])) if cell in item.said else -1 for cell in range(cells)
    ]
    return [
        metric,
        pool.name(item.split, item.item),
        pool.name("group", item.group) if item.group is not None else "",
        number(pool.text(item.prompt)),
        number(pool.text(item.truth)),
        [item.values.get(cell) for cell in range(cells)],
        said if item.said else [],
        {str(cell): number(reason) for cell, reason in item.unscored.items()},
    ]
