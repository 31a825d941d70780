"""Carrying a recipe out: from a checkpoint and a corpus to a new checkpoint with its record.

Everything a killed run needs is in ``<output>.partial``; the result appears under ``<output>``
in one rename when it is whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import TypeAdapter

from expunge.corpus.checks import reading_warnings
from expunge.corpus.columns import reading
from expunge.errors import ExpungeError, OutputError, ScopeViolationError, TrainingError
from expunge.files import (
    RECORD,
    KeptError,
    claiming,
    discard,
    make_private,
    refuse_existing,
    refuse_link,
    replaced_by,
    write_json,
    write_text,
    writing,
)
from expunge.model.load import hash_model, require_savable, save_model
from expunge.model.resources import disk_errors, memory_errors
from expunge.parsing import load_json
from expunge.record import Stopwatch, hash_json, make_record
from expunge.scratch import remove_leftovers
from expunge.train.loop.callbacks import COMPLETE, no_other_bars
from expunge.train.run.recipe import Recipe
from expunge.train.run.requests import RequestTracker
from expunge.train.run.state import Corpus, State, read_unfinished
from expunge.types import Example

REQUEST = "request.json"
"""The file in the ``.partial`` folder with the request of an unfinished run."""

OWN_NAMES = re.compile(rf"{re.escape(REQUEST)}|stage-\d+")
"""What runs call what they leave in a ``.partial`` folder."""

SMALLER = (
    "Raise accumulation (the same step in smaller pieces), lower max_length, or train less of the model: "
    "--set scope.name=lora."
)

SavedDtype = Literal["source", "float32", "bfloat16", "float16"]
"""The dtype of a result; ``source`` is that of the source checkpoint."""


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """The request of a run. Two runs with the same request give the same bytes."""

    command: str
    recipe: Recipe
    source: str
    corpus: Corpus
    seed: int = 0
    save_dtype: SavedDtype = "source"
    fields: Mapping[str, str] | None = None

    def facts(self, model_hash: str) -> dict[str, Any]:
        """The request as the record states it: the recipe in force, and hashes of model and data."""
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "source": self.source,
            "source_sha256": model_hash,
            "forget": describe(self.corpus.forget),
            "retain": describe(self.corpus.retain),
            "holdout": describe(self.corpus.holdout),
            "forget_icl": describe(self.corpus.forget_icl),
            "retain_icl": describe(self.corpus.retain_icl),
            "seed": self.seed,
            "save_dtype": self.save_dtype,
            "reading": reading(self.fields),
        }


def carry_out(
    request: RunRequest,
    load: Callable[[], tuple[Any, Any]],
    output: Path,
    *,
    overwrite: bool = False,
    keep_partial: bool = False,
    warn: Callable[[str], None] = lambda _: None,
    account: RequestTracker | None = None,
) -> dict[str, Any]:
    """Run every stage of the recipe and write the checkpoint; returns its record.

    An unfinished run of the same request is continued. ``load`` gives the model and the tokenizer.
    A refusal leaves the unfinished run only if repeating the request would get further. ``account`` looks
    at the model before and after, and adds what it finds to the record.

    Raises:
        DataError: a stage cannot work on the corpus.
        OutputError: ``output`` exists or cannot be written, or an unfinished run of another request
            is in the way.
        TrainingError: the run cannot continue.
    """
    with claiming(output):
        discard_finished(output)
        refuse_existing(output, overwrite=overwrite)
        record = _carry_out(request, load, output, overwrite=overwrite, warn=warn, account=account)
        if not keep_partial:
            discard(partial_of(output))
    return record


def partial_of(output: Path) -> Path:
    """The folder in which an unfinished run keeps its files for resuming."""
    return output.with_name(output.name + ".partial")


def refuse_output(output: Path, *, overwrite: bool) -> None:
    """Refuse an output before anything is read for it, after settling what a killed run left there.

    Raises:
        OutputError: it exists, cannot be written, or another run is writing it.
    """
    with claiming(output):
        discard_finished(output)
        refuse_existing(output, overwrite=overwrite)


def discard_finished(output: Path) -> None:
    """Remove the ``.partial`` folder of the very run whose result ``output`` is: it was killed doing so."""
    remove_leftovers(partial_of(output))
    requested, recorded = partial_of(output) / REQUEST, output / RECORD
    if not (requested.is_file() and recorded.is_file()):
        return
    try:
        request, record = (load_json(path.read_bytes()) for path in (requested, recorded))
    except ValueError:  # not of a run, or edited: no reason to remove anything
        return
    if not (isinstance(request, dict) and isinstance(record, dict)):
        return
    if all(name in record and record[name] == fact for name, fact in request.items()):
        discard(partial_of(output))


def _carry_out(
    request: RunRequest,
    load: Callable[[], tuple[Any, Any]],
    output: Path,
    *,
    overwrite: bool,
    warn: Callable[[str], None],
    account: RequestTracker | None,
) -> dict[str, Any]:
    watch = Stopwatch()
    for stage in request.recipe.stages:
        stage.check(request.corpus)
    model, tokenizer = load()
    with no_other_bars():
        require_savable(model, tokenizer)
    for warning in reading_warnings(request.corpus.named, tokenizer):
        warn(warning)
    dtype = model.dtype if request.save_dtype == "source" else getattr(torch, request.save_dtype)
    facts = request.facts(hash_model(model))
    partial = _claim_partial(output, facts, overwrite=overwrite)
    with _left_only_to_go_on(partial), disk_errors(output), memory_errors(fix=SMALLER), no_other_bars():
        state = State(
            model=model,
            tokenizer=tokenizer,
            corpus=request.corpus,
            workdir=partial,
            seed=request.seed,
            source=lambda: load()[0],
            warn=warn,
        )
        if account is not None:
            account.begin(state, facts["source_sha256"])
        state = _through(request.recipe, state)
        state.model.to(dtype)
        facts["result_sha256"] = hash_model(state.model)
        if account is not None:
            facts["requests"] = account.end(state, facts["result_sha256"])
        record = make_record(command=request.command, watch=watch, **facts, stages=state.facts)
        _write(output, state, record, request.recipe, overwrite=overwrite)
    return record


def _through(recipe: Recipe, state: State) -> State:
    partial = state.workdir
    for index, stage in enumerate(recipe.stages):
        state.workdir = partial / f"stage-{index}"
        state = stage.run(state)
    return state


def _write(
    output: Path, state: State, record: Mapping[str, Any], recipe: Recipe, *, overwrite: bool
) -> None:
    with writing(output, may_replace=replaced_by(overwrite=overwrite), after_work=True) as folder:
        save_model(state.model, state.tokenizer, folder)
        for write in state.extra_outputs:
            write(folder)
        write_json(folder / RECORD, record)
        write_text(folder / "recipe.yaml", recipe_yaml(recipe))


def recipe_yaml(recipe: Recipe) -> str:
    """The recipe in force, with every default spelled out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def describe(examples: Sequence[Example]) -> dict[str, Any]:
    """How many examples, and the hash of everything in them."""
    return {"examples": len(examples), "sha256": hash_json([asdict(example) for example in examples])}


@contextmanager
def _left_only_to_go_on(partial: Path) -> Iterator[None]:
    try:
        yield
    except KeptError:  # finished, under another name
        discard(partial)
        raise
    except ExpungeError as error:
        # A run is a function of its request: what stopped training would stop it again.
        hopeless = isinstance(error, TrainingError | ScopeViolationError)
        if hopeless or not any(partial.rglob(COMPLETE)):
            discard(partial)
        raise


def _claim_partial(output: Path, facts: dict[str, Any], *, overwrite: bool) -> Path:
    partial = partial_of(output)
    refuse_link(partial)
    request = partial / REQUEST
    if request.exists() and not overwrite:
        if hash_json(read_unfinished(request, TypeAdapter(dict[str, Any]))) != hash_json(facts):
            raise OutputError(
                f"an unfinished run is in {partial}",
                why="it was started with another recipe, model, data or seed, so it cannot be continued.",
                fix="Repeat its command to continue it, or pass --overwrite to discard it.",
            )
        return partial
    if _foreign(partial):
        raise OutputError(
            f"{partial} is in the way",
            why="a run keeps its unfinished files there, but the existing files are not from a run.",
            fix="Choose another --output, or move the folder away.",
        )
    if partial.exists():
        discard(partial)
    make_private(partial)  # some methods keep texts there
    write_json(request, facts)
    return partial


def _foreign(partial: Path) -> bool:
    """Whether something is there that no run left, not even one killed before it said what it was asked."""
    if not partial.is_dir():
        return partial.exists()
    names = [path.name for path in partial.iterdir()]
    return any(
        not (name.startswith(f".{REQUEST}.") or (REQUEST in names and OWN_NAMES.fullmatch(name)))
        for name in names
    )
