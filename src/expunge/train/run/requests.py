"""Successive forget requests: earlier forget sets are located, not trained on, and evaluated again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from expunge.corpus.checks import normalised
from expunge.corpus.readers import read_examples
from expunge.errors import DataError, ModelError
from expunge.files import local_folder
from expunge.model.arch import is_masked
from expunge.model.resources import best_device
from expunge.record import hash_json
from expunge.train.loop.evaluator import LABELS, TrainingEvaluator, role_of
from expunge.train.run.ledger import (
    PastRequest,
    RequestEntry,
    RequestStatus,
    check_model,
    following,
    hash_set,
    look_up,
    read_ledger,
    write_ledger,
)
from expunge.train.run.outcome import MARGINS
from expunge.train.run.recipe import Recipe
from expunge.train.run.state import Corpus, State
from expunge.types import Example

ITEMS, LENGTH = 64, 2048
"""Examples evaluated per request, and tokens read at a time."""


@dataclass(frozen=True, kw_only=True)
class RequestHistory:
    """The requests before this one, those whose texts are trained ``still``, and this one's own texts."""

    recipe: Recipe
    folder: Path | None
    forget_file: str
    fields: Mapping[str, str]
    forget: tuple[Example, ...]
    earlier: tuple[PastRequest, ...] = ()
    still: frozenset[int] = frozenset()

    @property
    def corpus(self) -> tuple[Example, ...]:
        """This request's texts and those trained still, mixed so that any beginning has some of each."""
        again = [
            replace(example, id=f"{one.entry.number}/{example.id}")
            for one in self.earlier
            if one.entry.number in self.still
            for example in one.examples
        ]
        return tuple(_mixed(self.forget, again))

    def check(self, retain: Sequence[Example], *, allow_overlap: bool, warn: Callable[[str], None]) -> None:
        """Say what cannot be checked; refuse to keep what an earlier request forgot.

        Raises:
            DataError: a text that was forgotten is in the retain set.
        """
        kept = {normalised(example) for example in retain}
        for entry, examples, missing in self.earlier:
            if missing:
                warn(f"request {entry.number} ({entry.forget_file}) cannot be checked again: {missing}.")
            taught = [example.id for example in examples if normalised(example) in kept]
            if taught and not allow_overlap:
                raise DataError(
                    f"the retain set and request {entry.number}",
                    why=f"{len(taught)} texts it forgot ({taught[0]!r}) would be learnt again.",
                    fix="Take them out of the retain set, or allow it (--allow-overlap) if it is meant.",
                )


class RequestTracker:
    """Looks at every request around a run, and carries the ledger on."""

    def __init__(self, requests: RequestHistory) -> None:
        self.requests = requests
        self._source = ""
        self._before: float | None = None

    def begin(self, state: State, source_sha256: str) -> None:
        """Evaluate the forget set before the first stage.

        Raises:
            DataError: the ledger is that of other weights.
        """
        history = self.requests
        if history.folder is not None:
            check_model([one.entry for one in history.earlier], history.folder, source_sha256)
        self._source = source_sha256
        for entry in (one.entry for one in history.earlier if one.examples):
            if not _asked_alike(state, entry):
                state.warn(
                    f"request {entry.number} cannot be checked again: its questions were asked after other "
                    "solved questions than are given now (--forget-icl)."
                )
        state.model.to(best_device())
        solved = state.corpus.forget_icl
        self._before = _known(
            replace(state, warn=lambda _: None), history.forget, solved
        )  # a stage may refuse

    def end(self, state: State, result_sha256: str) -> list[dict[str, Any]]:
        """After the last stage: the status of each request. The ledger is written with the result."""
        history = self.requests
        statuses = [_standing(state, one) for one in history.earlier]
        known = [one.entry for one in history.earlier]
        entry = following(
            known,
            {
                "recipe": history.recipe.name,
                "recipe_sha256": hash_json(history.recipe.model_dump(mode="json")),
                "source_sha256": self._source,
                "result_sha256": result_sha256,
                "forget_file": history.forget_file,
                "fields": dict(history.fields),
                "forget_sha256": hash_set(history.forget),
                "examples": [hash_json(asdict(example)) for example in history.forget],
                "still": sorted(history.still),
                "metric": LABELS[role_of(history.forget)],
                "known_before": self._before,
                "known_after": _known(state, history.forget, state.corpus.forget_icl),
                "solved_sha256": _solved_hash(state),
            },
        )
        state.extra_outputs.append(partial(write_ledger, [*known, entry]))
        now = entry.known_after
        statuses.append(_row(entry, now, "this request" if now is not None else "cannot be scored"))
        return [standing._asdict() for standing in statuses]


def find_requests(
    model: str,
    forget: Sequence[Example],
    *,
    forget_file: str,
    recipe: Recipe,
    still: Sequence[str] = (),
    fields: Mapping[str, str] | None = None,
) -> RequestHistory:
    """This request and those in the ledger of the model it is asked of.

    Earlier forget sets are read from ``still``, or from the paths in the ledger.

    Raises:
        DataError: the ledger was tampered with, or a file of ``still`` is not of an earlier request.
    """
    folder = local_folder(model)
    entries = read_ledger(folder) if folder is not None else ()
    given = {path: tuple(read_examples(path, fields=fields)) for path in still}
    numbers = {path: _number(path, examples, entries) for path, examples in given.items()}
    at_hand = {numbers[path]: examples for path, examples in given.items()}
    return RequestHistory(
        recipe=recipe,
        folder=folder,
        forget_file=str(Path(forget_file).resolve()) if Path(forget_file).exists() else forget_file,
        fields=fields or {},
        forget=tuple(forget),
        earlier=tuple(
            PastRequest(entry, at_hand[entry.number]) if entry.number in at_hand else look_up(entry)
            for entry in entries
        ),
        still=frozenset(at_hand),
    )


def _number(path: str, examples: Sequence[Example], entries: Sequence[RequestEntry]) -> int:
    for entry in entries:
        if entry.forget_sha256 == hash_set(examples):
            return entry.number
    raise DataError(
        f"--reforget {path}",
        why=f"none of the {len(entries)} requests in the model's ledger has exactly this forget set.",
        fix="Pass the unchanged file; new texts belong in --forget.",
    )


def _mixed(one: Sequence[Example], other: Sequence[Example]) -> list[Example]:
    places = [((at + 0.5) / len(one), example) for at, example in enumerate(one)]
    places += [((at + 0.5) / len(other), example) for at, example in enumerate(other)]
    return [example for _, example in sorted(places, key=lambda pair: pair[0])]


def _standing(state: State, earlier: PastRequest) -> RequestStatus:
    entry, examples, missing = earlier
    if missing or not _asked_alike(state, entry):
        return _row(entry, None, "not checked")
    now = _known(state, examples, state.corpus.forget_icl if entry.solved_sha256 else ())
    if now is None or entry.known_after is None:
        return _row(entry, now, "cannot be scored")
    back = now > entry.known_after + MARGINS[entry.metric]
    return _row(entry, now, "came back" if back else "still forgotten")


def _row(entry: RequestEntry, now: float | None, verdict: str) -> RequestStatus:
    return RequestStatus(
        number=entry.number,
        time=entry.time,
        forget_file=entry.forget_file,
        examples=len(entry.examples),
        metric=entry.metric,
        before=entry.known_before,
        then=entry.known_after,
        now=now,
        verdict=verdict,
    )


def _solved_hash(state: State) -> str | None:
    solved = state.corpus.forget_icl
    return hash_set(solved) if solved else None


def _asked_alike(state: State, entry: RequestEntry) -> bool:
    """Whether the questions of an earlier request can be asked as they were asked then."""
    return entry.solved_sha256 in {None, _solved_hash(state)}


def _known(state: State, examples: Sequence[Example], solved: tuple[Example, ...]) -> float | None:
    """The model's score on some texts, 0-100; None if none of them can be scored.

    The sample is the same whatever the seed of the run, or two runs would be compared on other texts.
    """
    if is_masked(state.model):
        state.warn("a masked language model is asked no questions, so its ledger says what was done only")
        return None
    asked = replace(state, seed=0, corpus=Corpus(forget=tuple(examples), forget_icl=solved))
    length = min(LENGTH, _context(state.model))
    try:
        return TrainingEvaluator(asked, items=ITEMS, max_length=length).forget(state.model)
    except (DataError, ModelError) as error:
        state.warn(f"{len(examples)} texts cannot be scored for the ledger: {error.why}")
        return None


def _context(model: nn.Module) -> int:
    return int(getattr(model.config, "max_position_embeddings", LENGTH))
