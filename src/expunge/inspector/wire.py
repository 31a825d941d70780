"""What the page asks and is told: requests checked, engine values as JSON. Texts go as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from expunge.audit.summary import read_summary
from expunge.errors import ExpungeError
from expunge.inspector.desk import Answer, Who
from expunge.inspector.shelf import SUMMARY
from expunge.score.leak import leaked_words, segments

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from expunge.inspector.desk import Desk, Look
    from expunge.inspector.items import Item
    from expunge.inspector.weights import Erased

MOST_CHARACTERS = 1_000_000
MOST_MODELS = 16
MOST_TRUTH = 10_000
"""Characters of a true answer that are compared with what is said, and read."""
PAGE = 40
"""Items told at once."""
GLANCE = 240
"""Characters of a prompt in the list of items."""

Event = dict[str, Any]


class Asked(BaseModel):
    """A model to ask, as a browser names it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    precision: str = "full"
    epoch: int | None = None

    @property
    def who(self) -> Who:
        """The same for the desk."""
        return Who(self.model, self.precision, self.epoch)


class Question(BaseModel):
    """A prompt, the true answer if it is known, and who is asked."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str = Field(max_length=MOST_CHARACTERS)
    truth: str = Field(default="", max_length=MOST_CHARACTERS)
    asked: list[Asked] = Field(min_length=1, max_length=MOST_MODELS)


def shelf_of(desk: Desk) -> Event:
    """The models, precisions and metrics there are to choose from; no path of this machine is told."""
    known = {
        each.name: each for audit in desk.shelf.audits for each in read_summary(audit / SUMMARY).metrics
    }
    metrics = dict.fromkeys(item.metric for item in desk.items)
    return {
        "models": [
            {"name": each.name, "role": each.role.value, "epochs": sorted(each.epochs)}
            for each in desk.shelf.models
        ],
        "precisions": desk.precisions,
        "absent": list(desk.shelf.absent),
        "metrics": [
            {"name": name, "title": known[name].title or name, "scale": known[name].scale}
            for name in metrics
        ],
    }


def items_of(desk: Desk, *, metric: str, find: str, start: int) -> Event:
    """A page of the items of a metric that hold ``find``, the one of which most came back first."""
    wanted = find.strip().casefold()
    found = [
        (at, item)
        for at, item in enumerate(desk.items)
        if item.metric == metric and (not wanted or _holds(item, wanted))
    ]
    page = found[start : start + PAGE]
    return {
        "count": len(found),
        "risen": sum(item.rise > 0 for _, item in found),
        "items": [item_of(at, item) | {"prompt": item.prompt[:GLANCE]} for at, item in page],
    }


def item_of(at: int, item: Item) -> Event:
    """One item with its whole prompt and truth; ``at`` is what it is asked for by."""
    return {"at": at} | item._asdict()


def _holds(item: Item, wanted: str) -> bool:
    return any(wanted in text.casefold() for text in (item.name, item.prompt, item.truth))


def events(desk: Desk, question: Question) -> Iterator[Event]:
    """The true answer, the models' answers as they grow, how each sees the true answer, and ``over``.

    Each event names the place in ``question.asked`` it is about.
    """
    truth = question.truth or desk.truth_of(question.prompt) or ""
    yield {"truth": truth, "words": len(leaked_words("", truth[:MOST_TRUTH]))}
    truth = truth[:MOST_TRUTH]
    before = [Answer()] * len(question.asked)
    for row in desk.answers(question.prompt, [each.who for each in question.asked], truth=truth):
        for place, (old, new) in enumerate(zip(before, row, strict=True)):
            if new != old:
                yield said_of(place, truth, new)
        before = row
    yield {"over": True}


def said_of(place: int, truth: str, answer: Answer) -> Event:
    """An answer so far, cut where its leaked words begin and end: plain, leaked, plain, ...

    ``leaked``: how many words of the true answer are in it.
    """
    parts = segments(truth, answer.text) if truth else [answer.text]
    return {
        "place": place,
        "said": parts,
        "leaked": sum(len(leaked_words("", part)) for part in parts[1::2]),
        "note": answer.note,
        "whole": answer.over,
        "look": None if answer.look is None else look_of(answer.look),
    }


def look_of(look: Look) -> Event:
    """The true answer's tokens, and by layer each token's probability, rank, and what was first instead."""
    return {
        "tokens": look.tokens,
        "layers": [
            [[seen.probability, seen.rank, best] for seen, best in zip(layer, words, strict=True)]
            for layer, words in zip(look.reading.layers, look.best, strict=True)
        ],
    }


def tensors_of(found: Sequence[Erased]) -> Event:
    """What the grid erased, tensor by tensor."""
    return {"tensors": [[each.name, each.weights, each.changed, each.undone] for each in found]}


def refusal(error: ExpungeError) -> str:
    """A refusal as one line."""
    return f"{error.what}: {error.why} {error.fix}"
