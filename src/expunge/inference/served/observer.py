"""A server's model as metrics see it: an ``Observer`` that has texts only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from expunge.inference.generation.cache import cut
from expunge.inference.generation.sample import PLAIN, TokenSampler
from expunge.inference.observer import Observer
from expunge.inference.served.client import Ask, Client
from expunge.inference.served.echo import Scored, completion_logps
from expunge.inference.texts import TextLogps
from expunge.parsing import load_json
from expunge.record import hash_json
from expunge.types import Example

TEXTS_ONLY = "the server gives texts only; this needs the log-probabilities, tokens or weights of the model"


ONLY_ANSWERS = "of a server, only answers to questions in plain text are read"


class UnavailableError(Exception):
    """What a server cannot be asked; the message is the reason for which a metric is left out."""


class ServedObserver(Observer):
    """What metrics can have of a server: greedy and sampled texts.

    Asking for anything else raises ``UnavailableError``. While ``planning`` nothing is sent: requests are
    collected in ``client.planned``, and every answer is empty.
    """

    def __init__(self, client: Client, *, planning: bool = False) -> None:  # no model: not the base's
        self._client = client
        self._planning = planning
        self._found = {}

    def __getattr__(self, name: str) -> NoReturn:
        # What the base class keeps of a model in memory is not here, whichever method looks for it.
        raise UnavailableError(TEXTS_ONLY)

    @property
    def context(self) -> int | None:
        """Unknown: the server refuses what is too long."""
        return None

    def prefetch(self, prompts: Sequence[str], *, max_new_tokens: int) -> None:
        """Nothing: a server reads no document ahead."""

    def expect_answers(
        self, prompts: Sequence[str | Example], *, max_new_tokens: int, stop: Sequence[str] = ()
    ) -> None:
        """Nothing: answers are asked together anyway."""

    def greedy(
        self, prompts: Sequence[str | Example], *, max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[str]:
        """The answer to each prompt at temperature 0, cut before the first stop string."""
        asks = [Ask(*_messages(prompt), max_new_tokens, tuple(stop)) for prompt in prompts]
        texts = self._ask(asks)
        return [cut(_after(prompt, text), stop) for prompt, text in zip(prompts, texts, strict=True)]

    def text_logps(
        self, examples: Sequence[Example], *, sampler: TokenSampler = PLAIN
    ) -> list[TextLogps | str]:
        """Of answers to questions in plain text, where the server's echo can be believed."""
        if sampler != PLAIN:
            raise UnavailableError(
                "the server's log-probabilities are those of temperature 1 without top_p"
            )
        asks = {
            example: Ask((("user", example.text),), is_chat=False, tokens=1, is_echo=True)
            for example in examples
            if not example.is_document and not example.is_chat
        }
        if self._planning:
            self._client.planned += asks.values()
            return [ONLY_ANSWERS for _ in examples]
        if self._client.missing([*asks.values()]) and self._client.no_echo is not None:
            raise UnavailableError(self._client.no_echo)
        found = dict(zip(asks, self._client([*asks.values()]), strict=True))
        return [_echoed(found[each], each) if each in found else ONLY_ANSWERS for each in examples]

    def samples(
        self,
        questions: Sequence[Example],
        *,
        count: int,
        max_new_tokens: int,
        sampler: TokenSampler,
        seed: int,
    ) -> list[list[str]]:
        """For each question ``count`` sampled answers, each a request with a seed of its own."""
        if sampler.top_k:
            raise UnavailableError("the interface of the server has no top_k")
        asks = [
            Ask(
                *_messages(question),
                max_new_tokens,
                temperature=sampler.temperature,
                top_p=sampler.top_p,
                seed=int(hash_json([seed, question.id, number])[:7], 16),
                number=number,
            )
            for question in questions
            for number in range(count)
        ]
        texts = iter(self._ask(asks))
        return [[_after(question, next(texts)) for _ in range(count)] for question in questions]

    def _ask(self, asks: list[Ask]) -> list[str]:
        if not self._planning:
            return self._client(asks)
        self._client.planned += asks
        return [""] * len(asks)


def _echoed(answer: str, example: Example) -> TextLogps | str:
    try:
        return completion_logps(Scored.of(load_json(answer)), example)
    except (TypeError, ValueError, KeyError):
        return "the server echoes its log-probabilities in another form than agreed"


def _messages(prompt: str | Example) -> tuple[tuple[tuple[str, str], ...], bool]:
    """A prompt as messages, and whether it is a chat; a space at its end is left to the answer."""
    if isinstance(prompt, str) or not prompt.is_chat:
        text = prompt if isinstance(prompt, str) else prompt.prompt
        return (("user", text.rstrip(" ")),), False
    turns = [(turn.role, turn.content) for turn in prompt.turns]
    return (*turns, *([("user", prompt.prompt)] if prompt.prompt else [])), True


def _after(prompt: str | Example, text: str) -> str:
    """An answer without the spaces that its prompt left to it."""
    if not isinstance(prompt, str) and prompt.is_chat:
        return text
    written = prompt if isinstance(prompt, str) else prompt.prompt
    return text.removeprefix(written[len(written.rstrip(" ")) :])
