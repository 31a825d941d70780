"""Log-probabilities of a given text that a completions interface echoes, and whether they can be believed.

Interfaces differ in what they echo: vLLM's values are right; llama-cpp-python's server (0.3.36) gives every
token the value of the next one. So what is echoed is compared with what the same server says of the tokens
that it draws itself, one by one.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, NamedTuple

import torch

from expunge.corpus.spans import touched
from expunge.inference.texts import TextLogps
from expunge.types import Example

PROBE = "Some of the things that people like best are"
"""Our own text, which the server goes on from."""
TRIES, DRAWN, ENOUGH = 6, 8, 12
"""How often it goes on, by how many tokens, and how many tokens are enough to compare."""
CLOSE = 0.1
"""Mean difference in nats between two readings of the same tokens; 16-bit servers differ by 0.05."""

NO_ECHO = "the server echoes no log-probabilities of a given text"
UNCHECKED = "the log-probabilities that the server echoes could not be compared with its own next tokens"
UNTRUE = (
    "the log-probabilities that the server echoes are not those of its own next tokens (but shifted by "
    "one token, perhaps), so they are not used"
)


class Scored(NamedTuple):
    """Tokens as text, and the log-probability of each; the first of a text has none."""

    tokens: list[str]
    logps: list[float | None]

    @classmethod
    def of(cls, found: Any) -> Scored:
        """From the ``logprobs`` of an answer.

        Raises:
            TypeError, ValueError, KeyError: they are not of the agreed form.
        """
        tokens = [str(token) for token in found["tokens"]]
        logps = [None if value is None else float(value) for value in found["token_logprobs"]]
        if len(tokens) != len(logps):
            raise ValueError("tokens and values differ in number")
        return cls(tokens, logps)


def completion_logps(echoed: Scored, example: Example) -> TextLogps | str:
    """The tokens of an answer after its prompt, or the reason why they cannot be told.

    As for a checkpoint, a space at the prompt's end belongs to the answer, and so does a token that has
    characters of both.
    """
    ends = list(accumulate(map(len, echoed.tokens)))
    start = "".join(echoed.tokens).find(example.text)  # after a token that begins every text
    if start < 0:
        return "the tokens that the server echoes do not spell the text"
    boundary, end = start + len(example.prompt.rstrip(" ")), start + len(example.text)
    if end not in ends:
        return "the last token that the server echoes goes beyond the text"
    first = start + len(example.prompt)
    logps, offsets = [], []
    for token, logp, last in zip(echoed.tokens, echoed.logps, ends, strict=True):
        if not boundary < last <= end or not token:
            continue
        if logp is None:
            return "the server echoes no log-probability of a token of the answer"
        logps.append(logp)
        # The space that a prompt left to the answer counts as its first character.
        offsets.append((max(0, last - len(token) - first), max(1, last - first)))
    return TextLogps(torch.tensor(logps), torch.tensor(touched(offsets, example.spans), dtype=torch.bool))


class EchoCheck:
    """Compares readings of the same tokens until there are enough of them."""

    def __init__(self) -> None:
        self._drawn: list[float] = []
        self._echoed: list[float] = []
        self._next: list[float] = []

    @property
    def is_enough(self) -> bool:
        """Whether it can decide."""
        return len(self._drawn) >= ENOUGH

    def add(self, drawn: Scored, echoed: Scored) -> None:
        """What the server drew after ``PROBE``, and what it echoes of both and one token more."""
        count = len(drawn.tokens)
        begin = len(echoed.tokens) - 1 - count
        if begin < 1 or echoed.tokens[begin:-1] != drawn.tokens:
            return  # read as other tokens than they were drawn as: nothing to compare
        for offset, value in enumerate(drawn.logps[:-1]):
            here, after = echoed.logps[begin + offset], echoed.logps[begin + offset + 1]
            if value is not None and here is not None and after is not None:
                self._drawn.append(value)
                self._echoed.append(here)
                self._next.append(after)

    def verdict(self) -> str | None:
        """Why the echoed values are not used; ``None`` if they are."""
        if not self.is_enough:
            return UNCHECKED
        right, shifted = _mean_gap(self._drawn, self._echoed), _mean_gap(self._drawn, self._next)
        if right > CLOSE:
            return UNTRUE
        return None if shifted > 2 * CLOSE else UNCHECKED


def _mean_gap(first: list[float], second: list[float]) -> float:
    return sum(abs(one - other) for one, other in zip(first, second, strict=True)) / len(first)
