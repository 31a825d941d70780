"""Prompts and true answers as tokens within a model's context, and greedy answers to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from expunge.corpus.boundary import opening
from expunge.corpus.columns import QUESTION as QUESTION_TEMPLATE
from expunge.corpus.tokenise import encode, encode_prompt, first_token
from expunge.inference.backbone import eval_mode
from expunge.inference.generation.cache import cut, end_tokens
from expunge.inference.generation.generate import greedy
from expunge.inference.generation.sample import sample_answers
from expunge.metrics.knowmem import STOPS
from expunge.model.rope import declared_positions
from expunge.types import Example

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

QUESTION = "Answer:"
"""The end of a question prompt, after which models tend to continue with the next question."""
MAX_TRUTH = 256
"""Maximum tokens of a true answer that are evaluated."""


class PromptTokens(NamedTuple):
    """The tokens a model continues; ``dropped`` were cut off at the beginning, after BOS."""

    ids: list[int]
    dropped: int


class TruthTokens(NamedTuple):
    """A prompt with its true answer: all tokens, and where the answer begins."""

    ids: list[int]
    begins: int


def room_of(model: nn.Module, max_length: int) -> int:
    """The maximum number of tokens of an input."""
    return min(declared_positions(model) or max_length, max_length)


PromptForm = Literal["written", "question", "chat"]
"""How a prompt is put: as it is written, as a question of the audit, or as a message of a chat."""


def formed(text: str, form: PromptForm, truth: str = "") -> Example:
    """A prompt in a form; one that already ends as a question does stays as it is."""
    if form == "question" and text and not is_question(text):
        text = QUESTION_TEMPLATE.format(question=text.strip())
    return Example(id="prompt", prompt=text, completion=truth, is_chat=form == "chat")


def is_question(text: str) -> bool:
    """Whether a text ends where an answer is to begin."""
    return text.rstrip().endswith(QUESTION)


def read_prompt(asked: Example, tokenizer: Any, *, room: int) -> PromptTokens:
    """The last tokens of a prompt that fit into ``room``, its opening kept.

    Raises:
        DataError: the tokenizer cannot write it.
    """
    ids = encode_prompt(asked, tokenizer) or first_token(tokenizer)
    return PromptTokens(*_cut(ids, len(opening(tokenizer)), room))


def read_truth(example: Example, tokenizer: Any, *, room: int) -> TruthTokens:
    """A prompt followed by its true answer, in at most ``room`` tokens; the answer is kept first.

    Raises:
        DataError: the true answer has no token.
    """
    length = len(example.text) + room
    encoded = encode(example, tokenizer, max_length=4 * length, eos=False)[0]
    begins = encoded.mask.index(True)
    answer = encoded.input_ids[begins:][: min(MAX_TRUTH, max(1, room // 2))]
    ids, _ = _cut(encoded.input_ids[:begins], len(opening(tokenizer)), room - len(answer))
    return TruthTokens(ids + answer, len(ids))


def _cut(ids: list[int], head: int, room: int) -> tuple[list[int], int]:
    dropped = max(0, len(ids) - room)
    return (ids[:head] + ids[head + dropped :], dropped)


# Greedy answers, streamed token by token; the text equals that of ``Observer.greedy``.


class DecodingMode(NamedTuple):
    """When to stop an answer: after a number of tokens, or after one of the stop strings."""

    tokens: int
    stop: tuple[str, ...] = ()


def decoding_mode(asked: Example, tokens: int) -> DecodingMode:
    """A question is answered as the audit lets it be, up to where the next one would begin."""
    return DecodingMode(tokens, STOPS if not asked.is_chat and is_question(asked.prompt) else ())


def sampled(
    model: nn.Module, tokenizer: Any, ids: Sequence[int], way: DecodingMode, count: int
) -> list[str]:
    """``count`` answers drawn at temperature 1, always the same ones."""
    ends = sorted(end_tokens(model, tokenizer))
    drawn = sample_answers(
        model,
        [list(ids)] * count,
        new_tokens=way.tokens,
        eos_ids=ends,
        pad_id=next(iter(ends), 0),
    )
    return [cut(str(tokenizer.decode(tokens, skip_special_tokens=True)), way.stop) for tokens in drawn]


def answer(
    model: nn.Module,
    tokenizer: Any,
    ids: Sequence[int],
    way: DecodingMode,
    *,
    on_text: Callable[[str], None],
    stopped: Callable[[], bool] = lambda: False,
) -> str:
    """The most likely continuation of ``ids``; ``on_text`` is called with the text after every token.

    It ends early once ``stopped`` returns true.
    """

    def text_of(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode(list(tokens), skip_special_tokens=True))

    def is_done(tokens: list[int]) -> bool:
        on_text(cut(text_of(tokens), way.stop))
        tokens_said = tokenizer.decode(tokens)
        return stopped() or any(text in tokens_said for text in way.stop)

    with eval_mode(model):
        tokens_said = greedy(
            model,
            [list(ids)],
            max_new_tokens=way.tokens,
            eos_ids=end_tokens(model, tokenizer),
            is_done=is_done,
        )
    return cut(text_of(tokens_said[0]), way.stop)
