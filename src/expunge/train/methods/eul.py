"""EUL: small unlearning layers added to frozen weights, fused with those of earlier requests."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm

from expunge.component import Component, Epochs
from expunge.corpus.batching import Batch, collate, shuffled
from expunge.corpus.readers import sample
from expunge.corpus.tokenise import Encoded
from expunge.edit.fusion import RIDGE, Gram, PostLayerLinear, UnlearningLayers, grams
from expunge.edit.requests import (
    LayerRequest,
    forgotten,
    hashes,
    load_requests,
    merge_requests,
    require_base,
    save_requests,
)
from expunge.errors import DataError, TrainingError
from expunge.files import writing
from expunge.inference.forward import compute_token_view
from expunge.inference.reference import CacheFolder, Key, Stream, cache_reference
from expunge.inference.token_view import Need, TokenView
from expunge.model.load import hash_model
from expunge.model.precision import prepare_weights
from expunge.model.resources import NO_BARS, best_device
from expunge.train.methods import DataNeed, Stage, stages
from expunge.train.methods.training_stage import encode_examples
from expunge.train.objective.reference import REFERENCE, discard_caches
from expunge.train.run.state import Corpus, State
from expunge.types import Example

STATE = "alternate.pt"


class AlternateSettings(Component):
    """Optimizer, batch and schedule: AdamW, a warm-up over a share of the steps, then a linear decay."""

    learning_rate: PositiveFloat = Field(default=5e-5, description="Peak learning rate of AdamW.")
    epochs: Epochs = Field(default=5, description="Epochs of each aim.")
    batch_size: PositiveInt = Field(default=8, description="Examples per step.")
    max_length: Annotated[int, Field(ge=8)] = Field(
        default=2048,
        description="The most tokens of a sequence; longer documents are cut, longer pairs refused.",
    )
    max_grad_norm: PositiveFloat = Field(
        default=1.0, description="The norm to which gradients are clipped."
    )
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.06,
        description=(
            "The share of the steps over which the learning rate rises, at least 0 and below 1; it "
            "falls linearly after."
        ),
    )
    append_eos: bool | None = Field(
        default=None,
        description="Whether texts end with the end token; null: answers do, documents do not.",
    )


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What one kind of epoch does: the loss [B] of some of its ``items`` items, by place."""

    name: str
    items: int
    loss: Callable[[Sequence[int]], Tensor]


class AlternatingLoop:
    """Trains ``module`` on aims in turn, ``settings.epochs`` times all of them."""

    def __init__(
        self, module: nn.Module, aims: Sequence[Phase], settings: AlternateSettings, *, seed: int
    ) -> None:
        self.module = module
        self.aims = aims
        self.settings = settings
        self.seed = seed
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        self._weights = list(module.parameters())
        self._optimizers = [torch.optim.AdamW(self._weights, lr=settings.learning_rate) for _ in aims]
        self._schedules = [
            LambdaLR(optimizer, self._factor_of(aim))
            for optimizer, aim in zip(self._optimizers, aims, strict=True)
        ]

    @property
    def steps(self) -> int:
        """Steps made so far, of all aims."""
        return self.epoch * sum(self._steps(aim) for aim in self.aims)

    def run(self, folder: Path) -> None:
        """Train, resuming from the files of an earlier run in ``folder``."""
        path = folder / STATE
        if path.exists():
            self._load(path)
        rounds = range(self.epoch, self.settings.epochs)
        hidden = not sys.stderr.isatty() or NO_BARS in os.environ
        for _ in (bar := tqdm(rounds, desc="unlearning", disable=hidden)):
            losses = {aim.name: self._epoch_of(index, aim) for index, aim in enumerate(self.aims)}
            self.epoch += 1
            self.history.append(losses)
            bar.set_postfix(losses)
            self._save(path)

    def _epoch_of(self, index: int, aim: Phase) -> float:
        total = 0.0
        order = shuffled(aim.items, self.seed, index, self.epoch)
        for rows in _pieces(order, self.settings.batch_size):
            losses_B = aim.loss(rows)
            loss = losses_B.mean()
            total += float(losses_B.detach().sum())
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the {aim.name} loss is not a number in epoch {self.epoch + 1}",
                    why=f"it overflowed at learning rate {self.settings.learning_rate:g}.",
                    fix="Lower learning_rate.",
                )
            self._optimizers[index].zero_grad(set_to_none=True)
            loss.backward()
            clip_grad_norm_(self._weights, self.settings.max_grad_norm)
            self._optimizers[index].step()
            self._schedules[index].step()
        return total / aim.items

    def _factor_of(self, aim: Phase) -> Callable[[int], float]:
        steps = self._steps(aim) * self.settings.epochs
        warm = math.ceil(self.settings.warmup * steps)
        return lambda step: min((step + 1) / (warm + 1), (steps - step) / max(1, steps - warm))

    def _steps(self, aim: Phase) -> int:
        return math.ceil(aim.items / self.settings.batch_size)

    def _save(self, path: Path) -> None:
        state: dict[str, Any] = {
            "module": self.module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "schedules": [schedule.state_dict() for schedule in self._schedules],
            "epoch": self.epoch,
            "history": self.history,
        }
        with writing(path) as scratch:
            torch.save(state, scratch)

    def _load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.module.load_state_dict(state["module"])
        for optimizer, scheduler_state in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(scheduler_state)
        for schedule, scheduler_state in zip(self._schedules, state["schedules"], strict=True):
            schedule.load_state_dict(scheduler_state)
        self.epoch, self.history = state["epoch"], state["history"]


def _pieces(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (order[start : start + size] for start in range(0, len(order), size))


FROM_BEFORE = frozenset({Need.FORWARD_KL})


@stages.register("eul")
class UnlearnByLayers(AlternateSettings, Stage):
    """Trains layers ``y + U D y`` after every MLP with the weights frozen, and merges them at the end.

    With F before and F' with the layers, a forget epoch descends on ``−KL(F ‖ F') + lm_weight · log p``
    of the forget set, each capped per token; a retain epoch on
    ``kl_weight · KL(F ‖ F') + task_weight · cross-entropy`` of the retain set. They alternate, with an
    optimizer each.

    The layers of earlier requests on the same checkpoint and the new ones are fused from Gram matrices,
    without their texts.

    Source: Chen and Yang 2023 (arXiv 2310.20150), Secs. 3.2 and 3.3; ``cap``, ``ridge``, ``keep`` are ours.
    """

    rank: PositiveInt = Field(default=16, description="Rank of each unlearning layer.")
    kl_weight: NonNegativeFloat = Field(default=0.8, description="Weight of KL(F ‖ F') on the retain set.")
    task_weight: NonNegativeFloat = Field(
        default=1.0, description="Weight of the cross-entropy on the retain set."
    )
    lm_weight: PositiveFloat = Field(
        default=0.2, description="Weight of log p on the forget set, relative to KL(F ‖ F')."
    )
    cap: PositiveFloat = Field(
        default=6.0, description="The largest value of a forget term, in nats per token."
    )
    past: tuple[Path, ...] = Field(
        default=(),
        description=(
            "Results of earlier requests on the same checkpoint, whose layers are fused with the new ones."
        ),
    )
    ridge: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=RIDGE,
        description=(
            "Regularisation of the fusion towards the mean of the layers, as a share of the mean "
            "diagonal of the Gram matrices; above 0, below 1."
        ),
    )
    keep: NonNegativeFloat = Field(
        default=0.0,
        description=(
            "Weight of the Gram matrices of retain text, on which the fused layers should change "
            "nothing; 0 leaves them out."
        ),
    )
    keep_items: PositiveInt = Field(
        default=64, description="The most retain texts whose Gram matrix is kept with a request."
    )

    @property
    def needs(self) -> frozenset[DataNeed]:
        return frozenset({"retain"})

    def check(self, corpus: Corpus) -> None:
        """Refuse a corpus without a retain set, and a retain set with what was to be forgotten before."""
        if not corpus.retain:
            raise DataError(
                "no retain set",
                why="training alternates between forgetting and retaining.",
                fix="Pass --retain FILE.",
            )
        gone = forgotten(self.past)
        again = [example.id for example in corpus.retain if hashes([example]) & gone]
        if again:
            raise DataError(
                f"the retain set contains {len(again)} texts that an earlier request forgot",
                why=f"{again[0]!r} is one of them.",
                fix="Remove the forget sets of earlier requests from the retain set.",
            )

    def run(self, state: State) -> State:
        """Train the layers, resuming from the last epoch of an interrupted run; fuse; merge."""
        torch.manual_seed(state.seed)
        model = prepare_weights(state.model, "fp32", device=best_device()).eval().requires_grad_(False)
        base = hash_model(model)
        texts: dict[Stream, list[Encoded]] = {
            "forget": self._sequences(state, state.corpus.forget),
            "retain": self._sequences(state, state.corpus.retain),
        }
        past = load_requests(self.past)
        require_base(past, base)
        layers = UnlearningLayers(model, rank=self.rank, seed=state.seed)
        trained = self._trained(model, layers, texts, state)
        requests = [*past, self._request(model, layers, texts, base, state.corpus.forget, state)]
        merge_requests(model, requests, base=base, ridge=self.ridge, keep=self.keep)
        state.extra_outputs.append(lambda folder: save_requests(requests, folder))
        state.facts.append(
            {
                "stage": "eul",
                "steps": trained.steps,
                "weights": sum(weight.numel() for weight in layers.parameters()),
                "requests": len(requests),
                "history": trained.history,
            }
        )
        discard_caches(state.workdir, REFERENCE)
        state.model = model
        return state

    def _trained(
        self, model: nn.Module, layers: UnlearningLayers, texts: dict[Stream, list[Encoded]], state: State
    ) -> AlternatingLoop:
        pad_id = state.tokenizer.pad_token_id
        before = cache_reference(
            model,
            logps_of=(),
            states_of=(
                (Key(name, i), one) for name, pieces in texts.items() for i, one in enumerate(pieces)
            ),
            pad_id=pad_id,
            head_may_change=False,
            keep=CacheFolder(state.workdir / REFERENCE),
        )

        def view(name: Stream, rows: Sequence[int]) -> TokenView:
            batch = _batch([texts[name][row] for row in rows], pad_id, model)
            return compute_token_view(
                model,
                batch,
                needs=FROM_BEFORE,
                reference=before,
                keys=[Key(name, row) for row in rows],
            )

        aims = [
            Phase(
                name="forget",
                items=len(texts["forget"]),
                loss=lambda rows: self.forgetting(view("forget", rows)),
            ),
            Phase(
                name="retain",
                items=len(texts["retain"]),
                loss=lambda rows: self.keeping(view("retain", rows)),
            ),
        ]
        alternation = AlternatingLoop(layers, aims, self, seed=state.seed)
        with layers.on(model):
            alternation.run(state.workdir)
        return alternation

    def forgetting(self, view: TokenView) -> Tensor:
        """``−KL(F ‖ F') + lm_weight · log p'`` of each text, both capped per token. Shape [B]."""
        far_BT = view.given(Need.FORWARD_KL).clamp(max=self.cap)
        unlikely_BT = (-view.logps).clamp(max=self.cap)
        return -view.mean(far_BT) - self.lm_weight * view.mean(unlikely_BT)

    def keeping(self, view: TokenView) -> Tensor:
        """``kl_weight · KL(F ‖ F') − task_weight · log p'`` of each text. Shape [B]."""
        kept_B = self.kl_weight * view.mean(view.given(Need.FORWARD_KL))
        return kept_B - self.task_weight * view.mean(view.logps)

    def _request(
        self,
        model: nn.Module,
        layers: UnlearningLayers,
        texts: dict[Stream, list[Encoded]],
        base: str,
        forget: Sequence[Example],
        state: State,
    ) -> LayerRequest:
        pad_id = state.tokenizer.pad_token_id
        gram_by_layer = grams(model, layers, texts["forget"], pad_id=pad_id)
        kept: dict[str, Gram] = {}
        if self.keep:
            drawn = sample(texts["retain"], self.keep_items, seed=state.seed, name="retain")
            kept = grams(model, layers, drawn, pad_id=pad_id)
        layers_by_name: dict[str, PostLayerLinear] = {}
        for name, down, up in zip(layers.names, layers.down, layers.up, strict=True):
            layers_by_name[name] = PostLayerLinear(
                down_RH=down.detach(),
                up_HR=up.detach(),
                gram_HH=gram_by_layer[name].matrix_HH,
                tokens=gram_by_layer[name].tokens,
                kept_HH=kept[name].matrix_HH if kept else None,
                kept_tokens=kept[name].tokens if kept else 0,
            )
        return LayerRequest(layers=layers_by_name, base=base, texts=hashes(forget))

    def _sequences(self, state: State, examples: Sequence[Example]) -> list[Encoded]:
        return encode_examples(examples, state, max_length=self.max_length, eos=self.append_eos)


def _batch(texts: Sequence[Encoded], pad_id: int, model: nn.Module) -> Batch:
    return collate(texts, pad_id=pad_id).to(next(model.parameters()).device)
