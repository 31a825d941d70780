"""Quark's pool of sampled answers: exploration, rewards, quantiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler

from expunge.corpus.batching import Batch, collate, shuffled
from expunge.corpus.boundary import opening
from expunge.corpus.tokenise import Encoded
from expunge.errors import ModelError, TrainingError
from expunge.files import write_json
from expunge.inference.backbone import eval_mode, predictions
from expunge.inference.generation.cache import end_tokens
from expunge.inference.generation.sample import TokenSampler, sample_answers
from expunge.model.arch import output_head, output_layer
from expunge.model.precision import prepare_weights
from expunge.model.resources import best_device
from expunge.train.rewards import Reward, SampledAnswer
from expunge.train.run.state import State, read_unfinished
from expunge.types import Example


def add_control_token(tokenizer: Any, token: str) -> None:
    """Make ``tokenizer`` put ``token`` behind what it puts before every text (BOS, as a rule).

    Raises:
        ModelError: the tokenizer is not a fast one, or does not do it.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            "a slow tokenizer",
            why="nothing can be put before every text with it.",
            fix="Use a model with a fast tokenizer (a tokenizer.json).",
        )
    head = [*tokenizer.convert_ids_to_tokens(opening(tokenizer)), token]
    ids = dict(zip(head, tokenizer.convert_tokens_to_ids(head), strict=True))
    before = " ".join(head)
    backend.post_processor = TemplateProcessing(
        single=f"{before} $A", pair=f"{before} $A $B", special_tokens=list(ids.items())
    )
    if opening(tokenizer)[-1:] != [ids[token]]:
        raise ModelError(
            f"the tokenizer {type(tokenizer).__name__}",
            why=f"it does not put {token} before a text although it is configured to.",
            fix="Use a tokenizer that is only a tokenizer.json (PreTrainedTokenizerFast).",
        )


class Sample(NamedTuple):
    """An answer in tokens: the prompt it continues (by place), the answer, and what it is worth."""

    prompt: int
    answer: tuple[int, ...]
    reward: float


_SAMPLES = TypeAdapter(list[tuple[int, tuple[int, ...], float]])


def quantiles(rewards: Sequence[float], parts: int) -> list[int]:
    """The part of each sample: 0 for the highest rewards. Parts are of one size, the last takes the rest.

    Among equal rewards those that came first go first.
    Source: Lu et al. 2022 (arXiv 2205.13636), Sec. 2 (quantization), released code.
    """
    size = len(rewards) // parts
    order = sorted(range(len(rewards)), key=lambda index: -rewards[index])
    quantile_of = [0] * len(rewards)
    for rank, index in enumerate(order):
        quantile_of[index] = min(rank // size, parts - 1) if size else min(rank, parts - 1)
    return quantile_of


def write_samples(samples: Sequence[Sample], path: Path) -> None:
    """Keep the samples of a round; whole or not at all."""
    write_json(path, [[sample.prompt, list(sample.answer), sample.reward] for sample in samples])


def read_samples(path: Path) -> list[Sample]:
    """The samples of a round."""
    return [Sample(*sample) for sample in read_unfinished(path, _SAMPLES)]


# What Quark learns from: answers sampled round by round, and what the source model says of them.
#
# Shapes: N counted tokens, H hidden units.

SHORTEST = 3
"""Tokens an answer has before it may end, as in the released code."""


class QuarkPrompt(NamedTuple):
    """What is asked: an example, its prompt in tokens with what opens it, whether it is to be forgotten."""

    example: Example
    ids: list[int]
    forget: bool


class QuarkPrompts(NamedTuple):
    """The prompts, how many tokens open each, and the reward tokens, best first."""

    prompts: list[QuarkPrompt]
    opening: int
    tokens: list[int]

    def under(self, prompt: int, part: int) -> list[int]:
        """A prompt with the token of a part behind what opens it."""
        ids = self.prompts[prompt].ids
        return [*ids[: self.opening], self.tokens[part], *ids[self.opening :]]


@dataclass(frozen=True, slots=True)
class Conditioned:
    """A batch of answers under their tokens, and the source model's states [N, H] for the same tokens."""

    batch: Batch
    source_NH: Tensor
    examples: int

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Conditioned:
        """The same batch on ``device``."""
        source_NH = self.source_NH.to(device, non_blocking=non_blocking)
        return Conditioned(self.batch.to(device, non_blocking=non_blocking), source_NH, self.examples)


class Sizes(NamedTuple):
    """Steps of a round, samples of a step, parts of the pool, tokens of an answer and how freely drawn."""

    updates: int
    batch: int
    parts: int
    new_tokens: int
    temperature: float


@dataclass
class QuarkPool(Dataset[int]):
    """Everything sampled so far. ``explore`` begins a round; what it finds is kept in the working folder.

    The source model is in memory only while it reads the answers of a round.
    """

    sizes: Sizes
    reward: Reward
    state: State
    asked: QuarkPrompts
    model: nn.Module | None = None
    samples: list[Sample] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)
    source_states: list[Tensor] = field(default_factory=list)
    source_head: Any = None
    rounds: int = 0

    def __len__(self) -> int:
        return self.sizes.updates * self.sizes.batch

    def __getitem__(self, index: int) -> int:
        return index

    def explore(self, until: int) -> None:
        """Make sure the answers of the rounds up to ``until`` (from 0) are here and sorted."""
        while self.rounds <= until:
            path = self._file(self.rounds)
            if not path.exists():
                write_samples(self._sampled(), path)
            new = read_samples(path)
            self.samples += new
            self._read_by_source(new)
            self.rounds += 1
        self.parts = quantiles([sample.reward for sample in self.samples], self.sizes.parts)

    def means(self, rounds: int) -> list[float]:
        """The mean reward of what each round sampled."""
        rounds_of_samples = (read_samples(self._file(number)) for number in range(rounds))
        return [
            round(sum(one.reward for one in samples) / len(samples), 4) for samples in rounds_of_samples
        ]

    def collate(self, places: Sequence[int]) -> Conditioned:
        """Samples as one batch under the tokens of their parts."""
        pad_id = self.state.tokenizer.pad_token_id
        encoded = [self._encoded(self.samples[index], self.parts[index]) for index in places]
        source_NH = torch.cat([self.source_states[index] for index in places])
        return Conditioned(collate(encoded, pad_id=pad_id), source_NH, len(places))

    def _file(self, number: int) -> Path:
        return self.state.workdir / f"round-{number}.json"

    def _sampled(self) -> list[Sample]:
        if self.model is None:
            raise LookupError("the pool is empty")
        prompts = [
            self.asked.under(index, 0) if self.rounds else prompt.ids
            for index, prompt in enumerate(self.asked.prompts)
        ]
        tokenizer = self.state.tokenizer
        answers = sample_answers(
            self.model,
            prompts,
            new_tokens=self.sizes.new_tokens,
            eos_ids=sorted(end_tokens(self.model, tokenizer)),
            pad_id=tokenizer.pad_token_id,
            banned=self.asked.tokens,
            at_least=min(SHORTEST, self.sizes.new_tokens),
            sampler=TokenSampler(temperature=self.sizes.temperature),
            seed=self.state.seed + self.rounds,
        )
        texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
        prompts_and_texts = zip(self.asked.prompts, texts, strict=True)
        worth = self.reward(
            [SampledAnswer(one.example, text, one.forget) for one, text in prompts_and_texts]
        )
        samples = [
            Sample(index, tuple(answer), reward)
            for index, (answer, reward) in enumerate(zip(answers, worth, strict=True))
            if reward is not None and answer
        ]
        if not samples:
            raise TrainingError(
                f"round {self.rounds + 1} of quark has nothing to learn from",
                why="the reward gave no number for any of the sampled answers.",
                fix="Check the reward on a few texts; None means that an answer has none.",
            )
        return samples

    def _encoded(self, sample: Sample, part: int | None) -> Encoded:
        prompt = self.asked.prompts[sample.prompt].ids
        before = prompt if part is None else self.asked.under(sample.prompt, part)
        mask = [False] * len(before) + [True] * len(sample.answer)
        return Encoded([*before, *sample.answer], mask, self.asked.prompts[sample.prompt].example.id)

    @torch.no_grad()
    def _read_by_source(self, new: Sequence[Sample]) -> None:
        """What the source model, which knows no reward token, says of the new answers."""
        source = prepare_weights(self.state.source(), "fp32", device=best_device())
        pad_id = self.state.tokenizer.pad_token_id
        with eval_mode(source):
            for sample in new:
                batch = collate([self._encoded(sample, None)], pad_id=pad_id).to(best_device())
                self.source_states.append(predictions(source, batch).hidden_NH.cpu())
        if self.source_head is None:
            # The head alone stays: with its states it gives the source model's predictions.
            self.source_head = output_head(source, head=output_layer(source).requires_grad_(False))


class RoundSampler(Sampler[int]):
    """Places in the pool, in shuffles of the round's own; beginning a round explores first."""

    def __init__(self, pool: QuarkPool) -> None:
        self.pool = pool
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration round ``epoch``."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.pool)

    def __iter__(self) -> Iterator[int]:
        self.pool.explore(self.epoch)
        count, wanted = len(self.pool.samples), len(self.pool)
        laps = (
            shuffled(count, self.pool.state.seed, self.epoch, lap) for lap in range(-(-wanted // count))
        )
        return iter([index for lap in laps for index in lap][:wanted])
