"""A chat as its template writes it, cut in three: before the answer, the answer, after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from jinja2 import TemplateError

from expunge.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from expunge.types import Example

# Stands for the answer while the template runs. Private-use characters: no template trims them
# and no text holds them, so the cut is exact even where a template strips an answer's spaces.
STAND_IN = "\ue000answer\ue001"


class Frame(NamedTuple):
    """What the template writes before an answer and after it."""

    before: str
    after: str


def chat_frame(example: Example, tokenizer: PreTrainedTokenizerBase) -> Frame:
    """The text around a chat's last answer.

    Raises:
        DataError: the tokenizer has no chat template, or the template refuses these messages.
    """
    if not tokenizer.chat_template:
        raise DataError(
            f"example {example.id!r} is a chat",
            why="this model's tokenizer has no chat template, so how it reads a chat is unknown.",
            fix="Use an instruction-tuned model, or give prompt and completion instead of messages.",
        )
    try:
        text = tokenizer.apply_chat_template(_messages(example), tokenize=False)
    except TemplateError as error:
        raise DataError(
            f"example {example.id!r}",
            why=f"the model's chat template refuses its messages: {error}.",
            fix="Reorder the messages (user and assistant in turn, a system message only if it knows one).",
        ) from error
    before, found, after = text.rpartition(STAND_IN)
    if not found:
        raise DataError(
            f"example {example.id!r}",
            why="the model's chat template leaves the assistant's last message out.",
            fix="Give prompt and completion instead of messages, already written as the model reads them.",
        )
    return Frame(before, after)


def end_of_turn(after: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the model writes to end its answer: up to the first special token the template puts there.

    A template that puts none leaves it to the end token, if there is one.
    """
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    for position, token in enumerate(after):
        if token in special:
            return after[: position + 1]
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def _messages(example: Example) -> list[dict[str, str]]:
    messages = [{"role": turn.role, "content": turn.content} for turn in example.turns]
    if example.prompt:
        messages.append({"role": "user", "content": example.prompt})
    return [*messages, {"role": "assistant", "content": STAND_IN}]
