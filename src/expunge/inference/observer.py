"""``Observer``: cached continuations, token statistics and gradients of a model."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from expunge.corpus.batching import collate
from expunge.corpus.pairs import Blank
from expunge.corpus.tokenise import encode_prompt, left_to_say
from expunge.inference.backbone import eval_mode
from expunge.inference.batches import Batches, map_across_ranks
from expunge.inference.forward import compute_token_view
from expunge.inference.generation.branch import BranchedGeneration, BranchPoint
from expunge.inference.generation.cache import GenerationCache, GenerationRequest, cut, end_tokens
from expunge.inference.generation.near import near_mass
from expunge.inference.generation.sample import PLAIN, TokenSampler, sample_answers
from expunge.inference.generation.score_and_continue import ContinuationPrefetcher, PrefetchedText
from expunge.inference.hidden_states import States, read_states
from expunge.inference.masked_lm import fill_mask_logprobs
from expunge.inference.texts import ScoredText, TextLogps, TokenStats, as_text, read_texts
from expunge.model.arch import is_masked
from expunge.model.rope import check_lengths, declared_positions, separate_rope_lengths
from expunge.record import hash_json
from expunge.types import Example

__all__ = ["BranchPoint", "Observer", "TokenStats", "cut"]


def gradient_norms(model: nn.Module, texts: Sequence[ScoredText], *, pad_id: int) -> list[list[float]]:
    """For each text the 2-norm of the gradient of its mean negative log-likelihood, by parameter tensor.

    Tokens that end a text do not count. A gradient is measured and freed as soon as it is complete, so
    only one is in memory at a time (for a text of several pieces, one per tensor). Existing gradients, and
    which parameters require gradients, are left as they were.
    """
    with eval_mode(model), _trained(model) as weights, torch.enable_grad():
        return [_norms(model, weights, text, pad_id) for text in texts]


def _norms(model: nn.Module, weights: Sequence[Tensor], text: ScoredText, pad_id: int) -> list[float]:
    total = len(text.sensitive_n) - text.ending
    norms: dict[int, float] = {}
    if total < 1:
        return []
    for number, piece in enumerate(text.pieces, 1):
        batch = collate([piece], pad_id=pad_id).to(weights[0].device)
        is_last = number == len(text.pieces)
        if is_last and text.ending:
            batch.mask_BT[:, -text.ending :] = False
        with _measured(weights, norms) if is_last else nullcontext():
            (-compute_token_view(model, batch).logps.sum() / total).backward()
    return [norms[number] for number in sorted(norms)]


@contextmanager
def _measured(weights: Sequence[Tensor], norms: dict[int, float]) -> Iterator[None]:
    """Inside the block a gradient is replaced by its norm, under the number of its weight."""

    def measure(weight: Tensor, number: int) -> None:
        if weight.grad is not None:
            norms[number] = float(weight.grad.float().norm())
            weight.grad = None

    handles = [
        weight.register_post_accumulate_grad_hook(partial(measure, number=number))
        for number, weight in enumerate(weights)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _trained(model: nn.Module) -> Iterator[list[Any]]:
    """Every floating-point parameter, requiring gradients inside the block and restored after it."""
    weights = [weight for weight in model.parameters() if weight.is_floating_point()]
    before = [(weight.requires_grad, weight.grad) for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
        weight.grad = None
    try:
        yield weights
    finally:
        for weight, (required, gradient) in zip(weights, before, strict=True):
            weight.requires_grad_(required)
            weight.grad = gradient


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Observer:
    """A model as metrics see it. Nothing is computed twice; batches are sorted by length.

    ``batch_tokens`` bounds the padded size of one batch, so that long texts come in small batches. What
    a batch shares (few-shot examples before each question) is read once. Launched in several processes,
    each computes a part and all of them receive the full result.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, max_length: int, batch_tokens: int = 8192
    ) -> None:
        separate_rope_lengths(model)
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._batches = Batches(batch_tokens)
        generating = Batches(batch_tokens)
        self._continuations = GenerationCache(model, tokenizer, generating)
        self._forks = BranchedGeneration(model, tokenizer, generating, max_length=max_length)
        self._ahead = ContinuationPrefetcher(model, tokenizer)
        self._facts: dict[TokenSampler, dict[Example, TokenStats]] = {}
        self._gradients: dict[Example, list[float]] = {}
        self._found: dict[Hashable, object] = {}

    def greedy(
        self, prompts: Sequence[str | Example], *, max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[str]:
        """The greedy continuation of each prompt, in order, cut before the first stop string.

        A prompt is a text, or an example whose prompt (chat template and all) is continued. A prompt is
        continued once for all metrics: a shorter continuation is the beginning of a longer one.
        """
        return self._continuations(prompts, GenerationRequest(max_new_tokens, tuple(stop)))

    def prefetch(self, prompts: Sequence[str], *, max_new_tokens: int) -> None:
        """Announce prompts that will be continued, so that documents beginning with one are read once."""
        self._ahead.prefetch(prompts, max_new_tokens)

    def expect_answers(
        self, prompts: Sequence[str | Example], *, max_new_tokens: int, stop: Sequence[str] = ()
    ) -> None:
        """Announce prompts for ``greedy``, so that those with the same stop strings share batches."""
        self._continuations.prefetch(prompts, GenerationRequest(max_new_tokens, tuple(stop)))

    def token_logps(self, examples: Sequence[Example]) -> list[Tensor]:
        """For each example the log-probability of every counted token: float32, on the CPU, [n]."""
        return [facts.counted.logp_n for facts in self.facts(examples)]

    def facts(self, examples: Sequence[Example], *, sampler: TokenSampler = PLAIN) -> list[TokenStats]:
        """For each example the statistics of every token of its completion, from one forward pass.

        They are those under ``sampler``; a sampler other than ``PLAIN`` takes a pass of its own.
        """
        known = self._facts.setdefault(sampler, {})
        read = self._first if sampler == PLAIN else partial(self._read_under, sampler)
        _fill(known, examples, read)
        return [known[example] for example in examples]

    def text_logps(
        self, examples: Sequence[Example], *, sampler: TokenSampler = PLAIN
    ) -> list[TextLogps | str]:
        """For each example the log-probabilities of its text under ``sampler``, or why there are none."""
        texts = (facts.text for facts in self.facts(examples, sampler=sampler))
        return [TextLogps(text.logp_n, text.sensitive_n) for text in texts]

    def near_masses(
        self,
        prompts: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        *,
        distance: int,
        width: int,
        sampler: TokenSampler = PLAIN,
    ) -> list[float]:
        """For each prompt and target, in token ids, what ``near_mass`` says."""
        ends = sorted(end_tokens(self.model, self.tokenizer))
        near = partial(near_mass, self.model, distance=distance, width=width, sampler=sampler, eos_ids=ends)
        pairs = list(zip(prompts, targets, strict=True))
        check_lengths(self.model, [len(prompt) + len(target) for prompt, target in pairs])
        return map_across_ranks(pairs, lambda part: [near(*pair) for pair in part])

    def samples(
        self,
        questions: Sequence[Example],
        *,
        count: int,
        max_new_tokens: int,
        sampler: TokenSampler,
        seed: int,
    ) -> list[list[str]]:
        """For each question ``count`` sampled replies.

        They depend on the model, the question, its id and the seed, and not on the other questions.
        """
        draw = partial(self._draw, count=count, max_new_tokens=max_new_tokens, sampler=sampler, seed=seed)
        return map_across_ranks(questions, lambda part: [draw(question) for question in part])

    def read(self, examples: Sequence[Example]) -> list[TokenStats]:
        """As ``facts``, but not cached: for variants that no other metric reads."""
        return map_across_ranks(examples, self._read)

    def forks(self, points: Sequence[BranchPoint]) -> list[list[int]]:
        """The token ids with which the model continues from inside a text, by branch point."""
        return self._forks(points)

    @property
    def context(self) -> int | None:
        """The number of tokens the model was made to read at once; ``None`` where it is not known."""
        return declared_positions(self.model)

    @property
    def is_masked(self) -> bool:
        """Whether it is a masked language model, for which only ``fills`` is available."""
        return is_masked(self.model)

    def fills(self, blanks: Sequence[Blank]) -> list[list[float]]:
        """For each blank the raw logits of its ``fills``, all of which have as many."""
        return map_across_ranks(
            blanks,
            lambda blanks_of_rank: fill_mask_logprobs(self.model, blanks_of_rank, batches=self._batches),
        )

    def once(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """The result of ``compute`` on this model, cached under ``key``."""
        if key not in self._found:
            self._found[key] = compute()
        return cast("Value", self._found[key])

    def states(self, examples: Sequence[Example], *, tokens: int) -> list[States]:
        """For each example the hidden states behind its first counted tokens; not cached."""
        return map_across_ranks(examples, lambda examples_of_rank: self._states(examples_of_rank, tokens))

    def gradient_norms(self, examples: Sequence[Example]) -> list[list[float]]:
        """For each example the 2-norm of the gradient of its mean loss, by parameter tensor.

        One backward pass each: by far the most expensive query.
        """
        _fill(self._gradients, examples, lambda new: map_across_ranks(new, self._norms))
        return [self._gradients[example] for example in examples]

    def _first(self, examples: list[Example]) -> list[TokenStats]:
        both = map_across_ranks(examples, self._read_and_go_on)
        for text in both:
            if text.said is not None:
                self._continuations.put(*text.said)
        return [text.facts for text in both]

    def _read_under(self, sampler: TokenSampler, examples: list[Example]) -> list[TokenStats]:
        read = partial(read_texts, self.model, pad_id=self._pad_id, batches=self._batches, sampler=sampler)
        return map_across_ranks(examples, lambda part: read(self._texts(part)))

    def _draw(
        self, question: Example, *, count: int, max_new_tokens: int, sampler: TokenSampler, seed: int
    ) -> list[str]:
        prompt = encode_prompt(question, self.tokenizer)
        check_lengths(self.model, [len(prompt) + max_new_tokens])
        drawn = sample_answers(
            self.model,
            [prompt] * count,
            new_tokens=max_new_tokens,
            eos_ids=sorted(end_tokens(self.model, self.tokenizer)),
            pad_id=self._pad_id,
            sampler=sampler,
            seed=int(hash_json([seed, question.id])[:8], 16),
        )
        begun = left_to_say(question, self.tokenizer)
        texts: list[str] = self.tokenizer.batch_decode(drawn, skip_special_tokens=True)
        return [text.removeprefix(begun) for text in texts]

    def _read(self, examples: list[Example]) -> list[TokenStats]:
        return read_texts(self.model, self._texts(examples), pad_id=self._pad_id, batches=self._batches)

    def _read_and_go_on(self, examples: list[Example]) -> list[PrefetchedText]:
        return self._ahead.read(
            self._texts(examples),
            [example.completion if example.is_document else None for example in examples],
            pad_id=self._pad_id,
            batches=self._batches,
        )

    def _states(self, examples: list[Example], tokens: int) -> list[States]:
        texts = self._texts(examples)
        return read_states(self.model, texts, tokens=tokens, pad_id=self._pad_id, batches=self._batches)

    def _norms(self, examples: list[Example]) -> list[list[float]]:
        return gradient_norms(self.model, self._texts(examples), pad_id=self._pad_id)

    def _texts(self, examples: list[Example]) -> list[ScoredText]:
        return [as_text(example, self.tokenizer, max_length=self.max_length) for example in examples]

    @property
    def _pad_id(self) -> int:
        return self.tokenizer.pad_token_id or 0


def _fill(memo: dict[Key, Value], keys: Sequence[Key], compute: Callable[[list[Key]], list[Value]]) -> None:
    new = [key for key in dict.fromkeys(keys) if key not in memo]
    if new:
        memo.update(zip(new, compute(new), strict=True))
