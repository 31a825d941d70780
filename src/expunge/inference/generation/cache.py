"""A cache of greedy continuations by prompt.

Greedy decoding has a prefix property: the first tokens of a long continuation are the short one. So a
prompt is continued once, truncated for shorter requests, and extended for longer ones.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from expunge.corpus.chat import turn_end
from expunge.corpus.tokenise import encode_prompt, first_token, left_to_say, splits_token
from expunge.inference.backbone import eval_mode
from expunge.inference.batches import Batches, map_across_ranks
from expunge.inference.generation.generate import Prefix, greedy, groups, must_read_whole
from expunge.model.rope import check_lengths
from expunge.types import Example

CHARACTERS_PER_TOKEN = 4
"""Tokens looked at per character of a stop string: one character may take four byte tokens."""


class Generation(NamedTuple):
    """The tokens of a continuation so far, and whether the model ended it."""

    tokens: array[int]
    ended: bool


class GenerationRequest(NamedTuple):
    """When to stop: after a number of tokens, or after one of the stop strings."""

    tokens: int
    stop: tuple[str, ...] = ()


NOTHING = Generation(array("l"), ended=False)


class _Row(NamedTuple):
    """The tokens of a prompt, its continuation so far, and when to stop."""

    prompt: list[int]
    begun: array[int]
    wish: GenerationRequest

    @property
    def length(self) -> int:
        """The maximum number of tokens of prompt and continuation."""
        return len(self.prompt) + self.wish.tokens


class GenerationCache:
    """The greedy continuations of prompts, each generated once."""

    def __init__(self, model: nn.Module, tokenizer: Any, batches: Batches) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batches = batches
        self._said: dict[str | Example, Generation] = {}
        self._keys: dict[tuple[str, str], str | Example] = {}
        self._left: dict[str | Example, str] = {}
        self._expected: dict[tuple[str, ...], dict[str | Example, int]] = {}

    def prefetch(self, prompts: Sequence[str | Example], wish: GenerationRequest) -> None:
        """Announce prompts, which are continued in the batches of the first one requested."""
        expected = self._expected.setdefault(wish.stop, {})
        for key in map(self._key, prompts):
            expected[key] = max(wish.tokens, expected.get(key, 0))

    def __call__(self, prompts: Sequence[str | Example], wish: GenerationRequest) -> list[str]:
        """The continuation of each prompt, cut before the first stop string."""
        keys = [self._key(prompt) for prompt in prompts]
        if any(not self._is_enough(key, wish) for key in keys):
            self.prefetch(keys, wish)
            expected = self._expected.pop(wish.stop)
            wishes = {key: GenerationRequest(tokens, wish.stop) for key, tokens in expected.items()}
            new = [request for request in wishes.items() if not self._is_enough(*request)]
            generations = map_across_ranks(new, self._go_on)
            self._said.update(zip((key for key, _ in new), generations, strict=True))
        return [self._text(key, wish) for key in keys]

    def put(self, prompt: str, generation: Generation) -> None:
        """Store a continuation that was generated elsewhere, unless a longer one is known."""
        if len(self._said.get(prompt, NOTHING).tokens) < len(generation.tokens) or generation.ended:
            self._said[prompt] = generation

    def _is_enough(self, key: str | Example, wish: GenerationRequest) -> bool:
        known = self._said.get(key)
        if known is None:
            return False
        if known.ended or len(known.tokens) >= wish.tokens:
            return True
        return self._stops(known.tokens, wish) is not None

    def _key(self, prompt: str | Example) -> str | Example:
        """Prompts by content: examples with the same prompt share one.

        A chat is written by its template and stays what it is, and so does an example whose completion
        decides on the last tokens of its prompt.
        """
        if isinstance(prompt, str) or prompt.is_chat:
            return prompt
        pair = (prompt.prompt, prompt.completion)
        if pair not in self._keys:
            splits = splits_token(prompt, self.tokenizer)
            whole = Example(id="prompt", prompt=prompt.prompt, completion=prompt.completion)
            self._keys[pair] = whole if splits else prompt.prompt
        return self._keys[pair]

    def _text(self, key: str | Example, wish: GenerationRequest) -> str:
        generation = self._said[key].tokens[: wish.tokens]
        # Tokens after the stop are dropped first: they might change where the text is cut.
        tokens = list(generation[: self._stops(generation, wish)])
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        if key not in self._left:
            self._left[key] = left_to_say(as_example(key), self.tokenizer)
        return cut(text.removeprefix(self._left[key]), wish.stop)

    def _stops(self, tokens: Sequence[int], wish: GenerationRequest) -> int | None:
        """The number of tokens after which a stop string is complete."""
        if not wish.stop or not self._is_done(wish, tokens, window=len(tokens)):
            return None
        ends = range(1, len(tokens) + 1)
        return next((end for end in ends if self._is_done(wish, tokens[:end])), None)

    def _is_done(self, wish: GenerationRequest, tokens: Sequence[int], window: int | None = None) -> bool:
        """Whether the last tokens hold a stop string."""
        if not wish.stop:
            return False
        window_size = CHARACTERS_PER_TOKEN * max(map(len, wish.stop)) if window is None else window
        tail = self.tokenizer.decode(list(tokens[-window_size:]))
        return any(text in tail for text in wish.stop)

    def _go_on(self, requests: list[tuple[str | Example, GenerationRequest]]) -> list[Generation]:
        """The continuation of each prompt; all requests have the same stop strings."""
        rows = [
            _Row(self._prompt(key), self._said.get(key, NOTHING).tokens, wish) for key, wish in requests
        ]
        check_lengths(self.model, [row.length for row in rows])
        longest = max(row.length for row in rows)
        room = [0 if must_read_whole(self.model, longest) else len(row.prompt) - 1 for row in rows]
        generations: dict[int, Generation] = {}
        with eval_mode(self.model):
            for group in groups([row.prompt for row in rows], room):
                prefix = Prefix(self.model, group.prefix) if group.prefix else None
                group_rows = [rows[i] for i in group.rows]
                batch_results = self.batches.run(
                    [row.length for row in group_rows], partial(self._batch, group_rows, prefix)
                )
                generations |= {group.rows[i]: value for i, value in batch_results.items()}
        return [generations[i] for i in range(len(requests))]

    def _prompt(self, key: str | Example) -> list[int]:
        return encode_prompt(as_example(key), self.tokenizer) or first_token(self.tokenizer)

    def _batch(self, group: Sequence[_Row], prefix: Prefix | None, places: list[int]) -> list[Generation]:
        rows = [group[index] for index in places]
        is_done = partial(self._is_done, rows[0].wish)
        answers = greedy(
            self.model,
            [row.prompt for row in rows],
            max_new_tokens=[row.wish.tokens for row in rows],
            eos_ids=end_tokens(self.model, self.tokenizer),
            is_done=is_done,
            begun=[row.begun for row in rows],
            prefix=prefix,
        )
        return [
            Generation(array("l", tokens), len(tokens) < row.wish.tokens and not is_done(tokens))
            for row, tokens in zip(rows, answers, strict=True)
        ]


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a continuation.

    They are all that the model's generation_config lists, the tokenizer's EOS, and the end of the
    assistant's turn in its chat template: one of these ends an answer in training.
    """
    declared = getattr(model.generation_config, "eos_token_id", None)
    listed = declared if isinstance(declared, list) else [declared]
    ids = [*listed, tokenizer.eos_token_id, turn_end(tokenizer)]
    return frozenset(token for token in ids if token is not None)


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first of each stop string, applied one after the other."""
    for end in stop:
        text = text.split(end)[0]
    return text


def as_example(prompt: str | Example) -> Example:
    """A prompt as an example without a completion."""
    return prompt if isinstance(prompt, Example) else Example(id="prompt", prompt=prompt, completion="")
