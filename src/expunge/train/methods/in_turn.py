"""Knowledge unlearning: every step uses the whole forget set, or one chunk after another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field, PositiveInt, TypeAdapter, model_validator
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from expunge.edit.task_vector import every, keep, kept
from expunge.files import write_json
from expunge.forget.distributions import WHPLoss
from expunge.model.precision import prepare_weights
from expunge.model.resources import best_device
from expunge.train.loop.callbacks import COMPLETE, remove_checkpoints
from expunge.train.methods import stages
from expunge.train.methods.unlearn import Unlearn
from expunge.train.run.state import State, read_unfinished
from expunge.types import Example

RATES = ("dropout", "attention_dropout", "attn_dropout", "activation_dropout", "layerdrop")
"""Attributes in which modules of transformers hold a probability of their own."""


class _Rate(NamedTuple):
    """One probability: its position and its value."""

    holder: nn.Module
    attribute: str
    value: float


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Every probability of the model's modules is zero inside the block; later modules keep theirs."""
    rates = [rate for module in model.modules() for rate in _rates(module)]
    try:
        for rate in rates:
            setattr(rate.holder, rate.attribute, 0.0)
        yield
    finally:
        for rate in rates:
            setattr(rate.holder, rate.attribute, rate.value)


def _rates(module: nn.Module) -> Iterator[_Rate]:
    attributes = ("p",) if isinstance(module, _DropoutNd) else RATES
    for attribute in attributes:
        value = getattr(module, attribute, None)
        if isinstance(value, float):
            yield _Rate(module, attribute, value)


_FACTS = TypeAdapter(dict[str, Any])

WEIGHTS, FACTS = "after.safetensors", "facts.json"
"""What a part that is done leaves in its folder: its facts, and the weights until the next part is done."""


class _Done(NamedTuple):
    """A chunk's folder, and what the record says of it."""

    folder: Path
    facts: dict[str, Any]


@stages.register("unlearn_in_turn")
class UnlearnInTurn(Unlearn):
    """As ``unlearn``, with one step an epoch: over the whole forget set, or over a part of it.

    Each part continues from where the one before it ended, to its own stop. Levels of the stop rule are
    those of the model at the beginning, for every part. A step goes through the model in pieces of
    ``batch_size / accumulation`` sequences, as many as it takes.

    Source: Jang et al. 2023 (arXiv 2210.01504), Sec. 3.2 and 4.2.
    """

    chunk: PositiveInt | None = Field(
        default=None,
        description=(
            "Examples that are unlearned together, in the order of the forget set; null: all of them."
        ),
    )
    dropout: bool = Field(default=False, description="Whether dropout stays on while training.")

    @model_validator(mode="after")
    def _targets_are_of_all(self) -> UnlearnInTurn:
        if self.chunk is not None and isinstance(self.forget, WHPLoss):
            raise ValueError("forget loss 'generic' has targets for the whole forget set: leave chunk out")
        return self

    def run(self, state: State) -> State:
        """Unlearn chunk after chunk, resuming in the one in which an interrupted run was."""
        forget = state.corpus.forget
        size = self.chunk or len(forget)
        chunks = [forget[start : start + size] for start in range(0, len(forget), size)]
        state.model = prepare_weights(state.model, self.precision, device=best_device())
        with nullcontext() if self.dropout else without_dropout(state.model):
            stop = self.stop
            if stop is not None and len(chunks) > 1:
                stop = stop.settled(state.model, state, max_length=self.max_length)
            settings = self.model_copy(update={"stop": stop})
            done = _done(state.workdir, len(chunks))
            if done:
                _put_back(state.model, done[-1].folder / WEIGHTS)
            for index in range(len(done), len(chunks)):
                folder = _folder(state.workdir, index)
                done.append(_Done(folder, settings._part(state, chunks[index], folder)))
                if index + 1 < len(chunks):
                    _finish(state.model, done)
        state.facts.append(self._facts(chunks, [part.facts for part in done]))
        return state

    def _part(self, state: State, chunk: tuple[Example, ...], folder: Path) -> dict[str, Any]:
        """Unlearn one part; what the record says of it."""
        part = replace(state, corpus=replace(state.corpus, forget=chunk), workdir=folder, facts=[])
        state.model = Unlearn.run(self._full_batch(part), part).model
        (facts,) = part.facts
        return facts

    def _full_batch(self, part: State) -> UnlearnInTurn:
        """The settings under which a step is the whole part."""
        sequences = len(self._encode(part))
        piece = min(self.batch_size // self.accumulation, sequences)
        pieces = math.ceil(sequences / piece)
        return self.model_copy(update={"batch_size": piece * pieces, "accumulation": pieces})

    def _facts(self, chunks: list[tuple[Example, ...]], parts: list[dict[str, Any]]) -> dict[str, Any]:
        if len(chunks) == 1:
            return parts[0] | {"stage": "unlearn_in_turn"}
        return {
            "stage": "unlearn_in_turn",
            "steps": sum(facts["steps"] for facts in parts),
            "weights": parts[0]["weights"],
            "weights_that_may_change": max(facts["weights_that_may_change"] for facts in parts),
            "chunks": [
                {"examples": [example.id for example in chunk], **facts}
                for chunk, facts in zip(chunks, parts, strict=True)
            ],
        }


def _folder(workdir: Path, index: int) -> Path:
    return workdir / f"chunk-{index}"


def _done(workdir: Path, count: int) -> list[_Done]:
    """The parts that an earlier, killed run has finished."""
    folders = [_folder(workdir, index) for index in range(count)]
    finished = [folder for folder in folders if (folder / COMPLETE).exists()]
    return [_Done(folder, read_unfinished(folder / FACTS, _FACTS)) for folder in finished]


def _finish(model: nn.Module, done: list[_Done]) -> None:
    """Keep what the next part begins with; what came before is not needed any more."""
    folder, facts = done[-1]
    write_json(folder / FACTS, facts)
    keep(model, folder / WEIGHTS)
    (folder / COMPLETE).touch()
    remove_checkpoints(folder)
    if len(done) > 1:
        (done[-2].folder / WEIGHTS).unlink(missing_ok=True)


@torch.no_grad()
def _put_back(model: nn.Module, path: Path) -> None:
    weights = every(model)
    for name, weight in kept(path).items():
        weights[name].load().copy_(weight.load())
