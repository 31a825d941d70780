"""The API of the page: validated requests, and results as JSON. Texts are not escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from expunge.audit.summary import read_summary
from expunge.errors import ExpungeError
from expunge.inference.leakage import leaked_words, segments
from expunge.inspector.generate import PromptForm
from expunge.inspector.models import SUMMARY
from expunge.inspector.service import GeneratedAnswer, Inquiry, ModelRef

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from expunge.inspector.items import Erased, InspectorItem
    from expunge.inspector.service import InspectorService, LayerReading

MOST_CHARACTERS = 1_000_000
MOST_MODELS = 16
MOST_SAMPLES = 64
MOST_TRUTH = 10_000
"""Maximum characters of a true answer that are compared and evaluated."""
PAGE = 40
"""Items per page."""
GLANCE = 240
"""Characters of a prompt in the list of items."""

Event = dict[str, Any]


class AskedModel(BaseModel):
    """A model to ask, as a browser names it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    precision: str = "full"
    epoch: int | None = None

    @property
    def who(self) -> ModelRef:
        """The same model as a reference for the service."""
        return ModelRef(self.model, self.precision, self.epoch)


class Question(BaseModel):
    """A prompt, the true answer if known, and the models to query."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str = Field(max_length=MOST_CHARACTERS)
    truth: str = Field(default="", max_length=MOST_CHARACTERS)
    form: PromptForm = "written"
    samples: int = Field(default=0, ge=0, le=MOST_SAMPLES)
    asked: list[AskedModel] = Field(min_length=1, max_length=MOST_MODELS)


def registry_of(service: InspectorService) -> Event:
    """The models, precisions and metrics to choose from, without local paths."""
    known = {
        entry.name: entry
        for audit in service.registry.audits
        for entry in read_summary(audit / SUMMARY).metrics
    }
    metrics = dict.fromkeys(item.metric for item in service.items)
    return {
        "models": [
            {"name": entry.name, "role": entry.role.value, "epochs": sorted(entry.epochs)}
            for entry in service.registry.models
        ],
        "precisions": service.precisions,
        "form": service.form,
        "absent": list(service.registry.absent),
        "metrics": [
            {"name": name, "title": known[name].title or name, "scale": known[name].scale}
            for name in metrics
        ],
    }


def items_of(service: InspectorService, *, metric: str, find: str, start: int) -> Event:
    """A page of the items of a metric that contain ``find``, sorted by how much came back."""
    wanted = find.strip().casefold()
    items = [
        (at, item)
        for at, item in enumerate(service.items)
        if item.metric == metric and (not wanted or _holds(item, wanted))
    ]
    page = items[start : start + PAGE]
    return {
        "count": len(items),
        "risen": sum(item.rise > 0 for _, item in items),
        "items": [item_of(at, item) | {"prompt": item.prompt[:GLANCE]} for at, item in page],
    }


def item_of(at: int, item: InspectorItem) -> Event:
    """One item with its full prompt and truth; ``at`` is its index."""
    return {"at": at} | item._asdict()


def _holds(item: InspectorItem, wanted: str) -> bool:
    return any(wanted in text.casefold() for text in (item.name, item.prompt, item.truth))


def events(service: InspectorService, question: Question) -> Iterator[Event]:
    """The event stream: the true answer, the models' partial answers, their readings of it, and ``over``.

    Each event names the place in ``question.asked`` it is about.
    """
    truth = question.truth or service.truth_of(question.prompt) or ""
    yield {"truth": truth, "words": len(leaked_words("", truth[:MOST_TRUTH]))}
    truth = truth[:MOST_TRUTH]
    before = [GeneratedAnswer()] * len(question.asked)
    inquiry = Inquiry(question.prompt, truth, question.form, question.samples)
    for row in service.answers(inquiry, [model.who for model in question.asked]):
        for index, (old, new) in enumerate(zip(before, row, strict=True)):
            if new != old:
                yield said_of(index, truth, new)
        before = row
    yield {"over": True}


def said_of(index: int, truth: str, answer: GeneratedAnswer) -> Event:
    """An answer so far, cut where its leaked words begin and end: plain, leaked, plain, ...

    ``leaked``: how many words of the true answer are in it.
    """
    parts, leaked = _cut(truth, answer.text)
    return {
        "place": index,
        "said": parts,
        "leaked": leaked,
        "drawn": [_cut(truth, text) for text in answer.drawn],
        "note": answer.note,
        "whole": answer.over,
        "look": None if answer.look is None else look_of(answer.look),
    }


def _cut(truth: str, text: str) -> tuple[list[str], int]:
    """A text cut where its leaked words begin and end, and how many there are."""
    parts = segments(truth, text) if truth else [text]
    return parts, sum(len(leaked_words("", part)) for part in parts[1::2])


def look_of(reading: LayerReading) -> Event:
    """The true answer's tokens, and by layer each token's probability, rank, and what was first instead."""
    return {
        "tokens": reading.tokens,
        "layers": [
            [[seen.probability, seen.rank, best] for seen, best in zip(layer, words, strict=True)]
            for layer, words in zip(reading.reading.layers, reading.best, strict=True)
        ],
    }


def tensors_of(erased_tensors: Sequence[Erased]) -> Event:
    """The erased weights by tensor."""
    return {
        "tensors": [
            [tensor.name, tensor.weights, tensor.changed, tensor.undone] for tensor in erased_tensors
        ]
    }


def refusal(error: ExpungeError) -> str:
    """An error as one line."""
    return f"{error.what}: {error.why} {error.fix}"
