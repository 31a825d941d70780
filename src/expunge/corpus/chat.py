"""A chat as its template writes it, cut in three: before the answer, the answer, after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from expunge.corpus.boundary import continuation
from expunge.corpus.templates import TemplateFault, render
from expunge.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from expunge.types import Example

# Stands for the answer while the template runs. Private-use characters: no template trims them
# and no text holds them, so the cut is exact whatever the answer says.
STAND_IN = "\ue000answer\ue001"

Message = dict[str, str]


class Frame(NamedTuple):
    """What the template writes before an answer, of it, and after it.

    ``skipped``: the characters of the answer that were left out at its beginning (a template may trim it,
    or drop its reasoning); ``None`` where the answer was rewritten, so that no character is known again.
    """

    before: str
    answer: str
    after: str
    skipped: int | None


def chat_frame(example: Example, tokenizer: PreTrainedTokenizerBase) -> Frame:
    """The text of a chat around its last answer, and the answer as it appears there.

    Raises:
        DataError: the tokenizer has no chat template, or the template refuses these messages, fails, or
            passes a bound of time or size.
    """
    template = chat_template(example, tokenizer)
    asked = _messages(example)

    def write(messages: list[Message], *, asks: bool = False) -> str:
        return _written(example, tokenizer, template, messages, asks=asks)

    text = write([*asked, _said(STAND_IN)])
    before, separator, after = text.rpartition(STAND_IN)
    if not separator:
        raise DataError(
            f"example {example.id!r}",
            why="the model's chat template leaves the assistant's last message out.",
            fix="Give prompt and completion instead of messages, already written as the model reads them.",
        )
    answer = example.completion
    if not answer:
        return Frame(before, "", after, 0)
    whole = write([*asked, _said(answer)])
    before, after = before.replace(STAND_IN, answer), after.replace(STAND_IN, answer)
    if whole == before + answer + after:
        return Frame(before, answer, after, 0)
    if not _surrounds(before, whole, after):
        # A template that writes an empty block of reasoning before an answer without one (Qwen3's) writes
        # another beginning where the answer brings its own: the model starts from what is put to it then.
        before = write(asked, asks=True)
    if not _surrounds(before, whole, after):
        raise DataError(
            f"example {example.id!r}",
            why="the model's chat template writes other text around this answer than around others, so "
            "where it begins is unknown.",
            fix="Give prompt and completion instead of messages, already written as the model reads them.",
        )
    kept = whole[len(before) : len(whole) - len(after)]
    skipped = answer.rfind(kept)
    return Frame(before, kept, after, skipped if skipped >= 0 else None)


def chat_template(example: Example, tokenizer: PreTrainedTokenizerBase) -> str:
    """The template that writes a chat.

    Raises:
        DataError: the tokenizer has none, or several and none called default.
    """
    held = tokenizer.chat_template
    if isinstance(held, dict) and held and "default" not in held:
        raise DataError(
            f"example {example.id!r} is a chat",
            why=f"this model's tokenizer has several chat templates ({_some(sorted(held))}) and none "
            "called default, so which one its chats were written by is unknown.",
            fix="Save the one you mean as chat_template.jinja in its folder, or give prompt and completion "
            "instead of messages.",
        )
    template = held.get("default") if isinstance(held, dict) else held
    if not template:
        raise DataError(
            f"example {example.id!r} is a chat",
            why="this model's tokenizer has no chat template, so how it reads a chat is unknown.",
            fix="Use an instruction-tuned model, or give prompt and completion instead of messages.",
        )
    return str(template)


def end_of_turn(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The place of the token that ends an answer: the first special one that the template puts after it.

    ``None`` where it puts none, which leaves it to the end token.
    """
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return next((place for place, token in enumerate(ids) if token in special), None)


_ENDS: WeakKeyDictionary[object, dict[str, int | None]] = WeakKeyDictionary()


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that ends the assistant's turn in the tokenizer's chat template, if it has both."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        return None
    known = _ENDS.setdefault(tokenizer, {})
    if template not in known:
        known[template] = _turn_end(tokenizer, template)
    return known[template]


def _turn_end(tokenizer: PreTrainedTokenizerBase, template: str) -> int | None:
    messages = [{"role": "user", "content": "a"}, _said(STAND_IN)]
    try:
        text = render(template, messages, _context(tokenizer, asks=False))
    except TemplateFault:  # it writes no chat, so none has an end; a chat in the data is refused by name
        return None
    _, found, after = text.rpartition(STAND_IN)
    ids = continuation(after, tokenizer).ids if found else []
    place = end_of_turn(ids, tokenizer)
    return None if place is None else ids[place]


def _written(
    example: Example,
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    messages: list[Message],
    *,
    asks: bool,
) -> str:
    try:
        return render(template, messages, _context(tokenizer, asks=asks))
    except TemplateFault as fault:
        if fault.by_template:
            raise DataError(
                f"example {example.id!r}",
                why=f"the model's chat template refuses its messages: {str(fault).removesuffix('.')}.",
                fix="Reorder the messages (user and assistant in turn, a system message only if it knows "
                "one).",
            ) from fault
        raise DataError(
            f"example {example.id!r}",
            why=f"the model's chat template cannot write it: {str(fault).removesuffix('.')}.",
            fix="Repair chat_template.jinja in the model's folder, or give prompt and completion instead "
            "of messages.",
        ) from fault


def _context(tokenizer: PreTrainedTokenizerBase, *, asks: bool) -> dict[str, object]:
    return {**tokenizer.special_tokens_map, "add_generation_prompt": asks}


def _messages(example: Example) -> list[Message]:
    """The messages before the answer."""
    messages = [{"role": turn.role, "content": turn.content} for turn in example.turns]
    if example.prompt:
        messages.append({"role": "user", "content": example.prompt})
    return messages


def _said(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _surrounds(before: str, whole: str, after: str) -> bool:
    return whole.startswith(before) and whole.endswith(after) and len(before) + len(after) <= len(whole)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
