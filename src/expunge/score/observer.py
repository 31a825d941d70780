"""``Observer``: what a model says and how likely it finds a text, computed once however often asked."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from expunge.corpus.batching import collate, length_sorted_batches
from expunge.corpus.tokenise import Encoded, encode, encode_prompt
from expunge.model.arch import output_head, vocabulary
from expunge.model.positions import check_lengths
from expunge.score.backbone import predictions
from expunge.score.generate import greedy
from expunge.score.logprobs import token_logps
from expunge.types import Example

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

CHARACTERS_PER_TOKEN = 4
"""Tokens looked at per character of a stop string: one character may take four byte tokens."""


class Observer:
    """A model as metrics see it. Nothing is computed twice; batches are sorted by length.

    ``batch_tokens`` bounds the padded size of one batch, so that long texts come in small batches.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, max_length: int, batch_tokens: int = 8192
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.batch_tokens = batch_tokens
        self._said: dict[tuple[str | Example, int, tuple[str, ...]], str] = {}
        self._likelihood: dict[Example, Tensor] = {}

    def greedy(
        self, prompts: Sequence[str | Example], *, max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[str]:
        """The greedy continuation of each prompt, in order, cut before the first stop string.

        A prompt is a text, or an example whose prompt (chat template and all) is continued.
        """
        keys = [(prompt, max_new_tokens, tuple(stop)) for prompt in prompts]
        _fill(self._said, keys, lambda new: self._continue([key[0] for key in new], max_new_tokens, stop))
        return [self._said[key] for key in keys]

    def token_logps(self, examples: Sequence[Example]) -> list[Tensor]:
        """For each example the log-probability of every counted token: float32, on the CPU, [n]."""
        _fill(self._likelihood, examples, self._score)
        return [self._likelihood[example] for example in examples]

    def _continue(
        self, prompts: list[str | Example], max_new_tokens: int, stop: Sequence[str]
    ) -> list[str]:
        encoded = [encode_prompt(_as_example(prompt), self.tokenizer) for prompt in prompts]
        said = [""] * len(prompts)
        window = CHARACTERS_PER_TOKEN * max((len(text) for text in stop), default=0)

        def is_done(tokens: list[int]) -> bool:
            tail = self.tokenizer.decode(tokens[-window:]) if window else ""
            return any(text in tail for text in stop)

        lengths = [len(tokens) + max_new_tokens for tokens in encoded]
        check_lengths(self.model, lengths)
        with evaluating(self.model):
            for batch in length_sorted_batches(lengths, batch_tokens=self.batch_tokens):
                answers = greedy(
                    self.model,
                    [encoded[i] for i in batch],
                    max_new_tokens=max_new_tokens,
                    eos_ids=self._end_tokens(),
                    is_done=is_done,
                )
                for i, tokens in zip(batch, answers, strict=True):
                    said[i] = cut(self.tokenizer.decode(tokens, skip_special_tokens=True), stop)
        return said

    def _end_tokens(self) -> frozenset[int]:
        declared = getattr(self.model.generation_config, "eos_token_id", None)
        ids = declared if isinstance(declared, list) else [declared, self.tokenizer.eos_token_id]
        return frozenset(token for token in ids if token is not None)

    @torch.inference_mode()
    def _score(self, examples: list[Example]) -> list[Tensor]:
        pieces = [encode(example, self.tokenizer, max_length=self.max_length) for example in examples]
        chunks = [chunk for own in pieces for chunk in own]
        scored: list[Tensor] = [torch.empty(0)] * len(chunks)
        lengths = [len(chunk.input_ids) for chunk in chunks]
        check_lengths(self.model, lengths)
        with evaluating(self.model):
            for batch in length_sorted_batches(lengths, batch_tokens=self.batch_tokens):
                for i, logps in zip(batch, self._batch_logps([chunks[i] for i in batch]), strict=True):
                    scored[i] = logps
        in_order = iter(scored)
        return [torch.cat([next(in_order) for _ in own]) for own in pieces]

    def _batch_logps(self, chunks: Sequence[Encoded]) -> list[Tensor]:
        device = next(self.model.parameters()).device
        batch = collate(chunks, pad_id=self.tokenizer.pad_token_id or 0).to(device)
        found = predictions(self.model, batch)
        logps_N = token_logps(
            output_head(self.model),
            found.hidden_NH,
            found.token_N,
            vocabulary=vocabulary(self.model),
        )
        return list(logps_N.cpu().split(found.where_BT.sum(-1).tolist()))


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first of each stop string, applied one after the other."""
    for end in stop:
        text = text.split(end)[0]
    return text


def _fill(memo: dict[Key, Value], keys: Sequence[Key], compute: Callable[[list[Key]], list[Value]]) -> None:
    new = [key for key in dict.fromkeys(keys) if key not in memo]
    if new:
        memo.update(zip(new, compute(new), strict=True))


def _as_example(prompt: str | Example) -> Example:
    return prompt if isinstance(prompt, Example) else Example(id="prompt", prompt=prompt, completion="")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off inside the block; the mode is as it was afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
