"""An observer that says what it is told to, for metrics that only look."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from expunge.inference.generation.branch import BranchPoint
from expunge.inference.texts import TokenStats
from expunge.types import Example


@dataclass
class FakeObserver:
    """``say`` answers a prompt; ``logps`` and ``known`` are by example id; ``asked`` keeps every request.

    ``known`` are facts made by ``facts_of``; where there are none, they are made of ``logps``.
    """

    say: Callable[[str | Example], str] = lambda prompt: ""
    logps: Mapping[str, Sequence[float]] = field(default_factory=dict)
    known: Mapping[str, TokenStats] = field(default_factory=dict)
    norms: Mapping[str, list[float]] = field(default_factory=dict)
    continue_from: Callable[[BranchPoint], list[int]] = lambda fork: []
    tokenizer: Any = None
    model: Any = None
    max_length: int = 2048
    is_masked: bool = False
    asked: list[tuple[list[str | Example], int, tuple[str, ...]]] = field(default_factory=list)

    @property
    def context(self) -> int | None:
        return getattr(getattr(self.model, "config", None), "max_position_embeddings", None)

    def once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        return compute()

    def greedy(
        self, prompts: Sequence[str | Example], *, max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[str]:
        asked = [each if isinstance(each, str) or each.is_chat else each.prompt for each in prompts]
        self.asked.append((asked, max_new_tokens, tuple(stop)))
        said = [self.say(prompt) for prompt in asked]
        for end in stop:
            said = [text.split(end)[0] for text in said]
        return said

    def prefetch(self, prompts: Sequence[str], *, max_new_tokens: int) -> None:
        """Reads nothing ahead."""

    def expect_answers(
        self, prompts: Sequence[str | Example], *, max_new_tokens: int, stop: Sequence[str] = ()
    ) -> None:
        """Says nothing ahead."""

    def token_logps(self, examples: Sequence[Example]) -> list[Tensor]:
        return [facts.counted.logp_n for facts in self.facts(examples)]

    def facts(self, examples: Sequence[Example]) -> list[TokenStats]:
        return [
            self.known[each.id] if each.id in self.known else facts_of(logps=self.logps[each.id])
            for each in examples
        ]

    def forks(self, asked: Sequence[BranchPoint]) -> list[list[int]]:
        return [self.continue_from(fork)[: fork.tokens] for fork in asked]

    def gradient_norms(self, examples: Sequence[Example]) -> list[list[float]]:
        return [self.norms[example.id] for example in examples]


def facts_of(
    tokens: Sequence[int] = (),
    best: Sequence[int] = (),
    *,
    logps: Sequence[float] = (),
    means: Sequence[float] = (),
    variances: Sequence[float] = (),
    sensitive: Sequence[int] = (),
    ending: int = 0,
) -> TokenStats:
    """Facts of a text; what is not given is zero. ``sensitive`` are places."""
    count = max(len(tokens), len(logps))
    numbers = [
        torch.tensor(each or [0.0] * count, dtype=torch.float32) for each in (logps, means, variances)
    ]
    marked = torch.zeros(count, dtype=torch.bool)
    marked[list(sensitive)] = True
    return TokenStats(
        token_n=torch.tensor(tokens or [0] * count, dtype=torch.long),
        logp_n=numbers[0],
        best_n=torch.tensor(best or [0] * count, dtype=torch.long),
        mean_n=numbers[1],
        variance_n=numbers[2],
        sensitive_n=marked,
        ending=ending,
    )


def question(name: str, asked: str, answer: str, *, group: str | None = None) -> Example:
    return Example(id=name, prompt=f"Question: {asked}\nAnswer: ", completion=answer, group=group)


def document(name: str, text: str, *, group: str | None = None) -> Example:
    return Example(id=name, completion=text, group=group)
