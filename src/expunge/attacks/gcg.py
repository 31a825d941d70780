"""Greedy coordinate gradient: one suffix after every question that brings the answers back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Generator, Tensor, nn

from expunge.attacks import Armed, Attack, Attacked, Given, Means, attacks
from expunge.attacks.likelihood import Likelihood
from expunge.attacks.suffix import Suffixes, with_suffix
from expunge.component import StepsOrNone
from expunge.errors import DataError

ROUNDS = 8
"""How often candidates are drawn before a step makes do with those that survive."""


@attacks.register("gcg")
class AdversarialSuffix(Attack):
    """``min over q of −Σ log p(y | x, q)`` over token sequences q of ``length``, one q for all questions.

    Each step ranks the tokens of every place by the slope of the loss, draws ``candidates`` that differ
    in one place by one of the ``top_k`` best, keeps those that survive being typed, evaluates them
    exactly and takes the best if it is better. ``on``: the suffix is searched on the model under attack,
    or on the target (transfer: nothing of the unlearned model is needed). ``questions``: ``same`` are asked
    afterwards, or ``others``, about other people. At most ``prompts`` questions are searched on.

    Sources: Zou et al. 2023 (arXiv 2307.15043), GCG; Yuan et al. 2025 (arXiv 2408.10682), DUA. Their code
    for it was not released; length, top_k and steps are this project's.
    """

    title: ClassVar[str] = "an adversarial suffix after every question"
    source: ClassVar[str] = "arXiv 2408.10682, 2307.15043"

    on: Literal["model", "target"] = "model"
    questions: Literal["same", "others"] = "others"
    length: PositiveInt = 10
    steps: StepsOrNone = 100
    top_k: PositiveInt = 64
    candidates: PositiveInt = 64
    prompts: PositiveInt = 16

    @property
    def given(self) -> Given:
        return "all" if self.questions == "same" else "half"

    @property
    def needs(self) -> frozenset[Means]:
        return frozenset({"forget", "target"} if self.on == "target" else {"forget"})

    @property
    def once(self) -> bool:
        return self.on == "target"

    @property
    def idle(self) -> bool:
        return not self.steps

    def find(self, model: nn.Module, armed: Armed) -> Any:
        """The suffix, and the loss after every step."""
        if self.idle:
            return None
        asked = [example for example in armed.forget if not example.is_document][: self.prompts]
        if not asked:
            raise DataError(
                "an adversarial suffix",
                why="the forget set has no question to put it after.",
                fix="Add questions (prompt and completion), or choose relearn or ablate.",
            )
        attacked = armed.target() if self.on == "target" else model
        suffixes = Suffixes(asked, armed.tokenizer, armed.max_length)
        likelihood = Likelihood(attacked, suffixes.places, armed.tokenizer.pad_token_id)
        generator = Generator().manual_seed(armed.seed)
        suffix, losses = self._searched(suffixes, likelihood, generator, armed)
        return {"text": suffixes.text(suffix), "ids": suffix, "losses": losses}

    def _searched(
        self, suffixes: Suffixes, likelihood: Likelihood, generator: Generator, armed: Armed
    ) -> tuple[list[int], list[float]]:
        suffix = suffixes.first(self.length, generator)
        losses = likelihood.losses([suffix]).tolist()
        for step in range(self.steps):
            others = self.neighbours(suffix, likelihood.slope(suffix), suffixes, generator)
            if others:
                found = likelihood.losses(others)
                if float(found.min()) < losses[-1]:
                    suffix = others[int(found.argmin())]
                losses.append(min(losses[-1], float(found.min())))
            armed.tell(f"step {step + 1} of {self.steps}, loss {losses[-1]:.2f}")
        return suffix, losses

    def neighbours(
        self, suffix: Sequence[int], slope_nV: Tensor, suffixes: Suffixes, generator: Generator
    ) -> list[list[int]]:
        """Suffixes that differ from one in a single place and survive, by the slope of the loss there."""
        allowed = suffixes.allowed
        ranked_nV = slope_nV.cpu()[:, allowed].argsort(dim=1)[:, : self.top_k]
        found: dict[tuple[int, ...], None] = {}
        for _ in range(ROUNDS):
            missing = self.candidates - len(found)
            places = torch.randint(len(suffix), (missing,), generator=generator).tolist()
            ranks = torch.randint(ranked_nV.shape[1], (missing,), generator=generator).tolist()
            for place, rank in zip(places, ranks, strict=True):
                other = list(suffix)
                other[place] = int(allowed[ranked_nV[place, rank]])
                if tuple(other) not in found and other != list(suffix) and suffixes.survives(other):
                    found[tuple(other)] = None
            if len(found) == self.candidates:
                break
        return [list(other) for other in found]

    @contextmanager
    def applied(self, model: nn.Module, armed: Armed, found: Any) -> Iterator[Attacked]:  # noqa: ARG002
        text = found["text"] if found else ""
        yield Attacked(model=model, reworded=partial(with_suffix, text=text), facts=found or {})
