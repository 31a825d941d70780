"""An observer that says what it is told to, for metrics that only look."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from expunge.types import Example


@dataclass
class FakeObserver:
    """``say`` answers a prompt; ``logps`` are by example id; ``asked`` keeps every request."""

    say: Callable[[str | Example], str] = lambda prompt: ""
    logps: Mapping[str, Sequence[float]] = field(default_factory=dict)
    tokenizer: Any = None
    model: Any = None
    max_length: int = 2048
    asked: list[tuple[list[str | Example], int, tuple[str, ...]]] = field(default_factory=list)

    def greedy(
        self, prompts: Sequence[str | Example], *, max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[str]:
        self.asked.append((list(prompts), max_new_tokens, tuple(stop)))
        said = [self.say(prompt) for prompt in prompts]
        for end in stop:
            said = [text.split(end)[0] for text in said]
        return said

    def token_logps(self, examples: Sequence[Example]) -> list[Tensor]:
        return [torch.tensor(self.logps[example.id], dtype=torch.float32) for example in examples]


def question(name: str, asked: str, answer: str, *, group: str | None = None) -> Example:
    return Example(id=name, prompt=f"Question: {asked}\nAnswer: ", completion=answer, group=group)


def document(name: str, text: str, *, group: str | None = None) -> Example:
    return Example(id=name, completion=text, group=group)
