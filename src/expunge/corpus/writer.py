"""Examples as JSONL that reads back as the very same examples."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from expunge.errors import DataError
from expunge.files import anything, write_text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from expunge.files import MayReplace
    from expunge.types import Example


def write_examples(
    path: Path,
    examples: Iterable[Example],
    *,
    may_replace: MayReplace = anything,
    private: bool = False,
) -> None:
    """Write one JSON object a line, whole or not at all; see ``expunge.files.writing``.

    Raises:
        DataError: an example has turns that no list of messages could stand for.
        OutputError: the file cannot be written.
    """
    lines = [json.dumps(_row(example), ensure_ascii=False) for example in examples]
    write_text(path, "".join(f"{line}\n" for line in lines), may_replace=may_replace, private=private)


def _row(example: Example) -> dict[str, Any]:
    row: dict[str, Any] = {"id": example.id, **_content(example)}
    if example.group is not None:
        row["group"] = example.group
    if example.spans:
        row["spans"] = [list(span) for span in example.spans]
    if example.wrong:
        row |= {"wrong": list(example.wrong), "place": example.correct_index}
    if example.paraphrase is not None:
        row["paraphrase"] = example.paraphrase
    return row


def _content(example: Example) -> dict[str, Any]:
    if not example.is_chat:
        if example.turns:
            raise _turns(example, "it has turns but is not a chat.", "Set is_chat, or leave the turns out.")
        if example.is_document:
            return {"text": example.completion}
        return {"prompt": example.prompt, "completion": example.completion}
    if not example.prompt and example.turns and example.turns[-1].role == "user":
        raise _turns(example, "its turns end with the user's.", "Put the last user message in the prompt.")
    messages = [{"role": turn.role, "content": turn.content} for turn in example.turns]
    if example.prompt:
        messages.append({"role": "user", "content": example.prompt})
    return {"messages": [*messages, {"role": "assistant", "content": example.completion}]}


def _turns(example: Example, why: str, fix: str) -> DataError:
    return DataError(f"example {example.id!r}", why=why, fix=fix)
