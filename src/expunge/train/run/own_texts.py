"""A retain set that the model writes itself, for requests that come with nothing but a forget set.

Texts are sampled at temperature 1 from where the forget set's prompts begin (the chat template's head, or
``Question:``), in the manner of Magpie (arXiv 2406.08464); for documents, from the start of a text. What
repeats something of the forget set is left out, or the run would keep what it is to forget.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from expunge.corpus.formats import write_examples
from expunge.corpus.readers import read_examples
from expunge.corpus.tokenise import encode, encode_prompt, first_token
from expunge.errors import DataError, OutputError
from expunge.inference.generation.cache import end_tokens
from expunge.inference.generation.generate import shared_prefix
from expunge.inference.generation.sample import sample_answers
from expunge.model.load import hash_model
from expunge.types import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SELF = "self"
"""What ``--retain`` says for such a set."""
WANTED = 400
FEWEST = 16
"""Texts that are enough to begin with; a run with fewer would keep next to nothing."""
ROUNDS = 24
"""How often as many as are missing are sampled."""
LONGEST = 256
"""New tokens of one text."""
SHARED_WORDS = 8
"""Words in a row that a text may not have in common with the forget set."""
COMMON = 3
"""Examples of the forget set from which a run of words belongs to their form."""
FEWEST_WORDS = 5
"""Of a document."""
_WORD = re.compile(r"\w+")
_NAME = re.compile(r"\b[^\W\d_]\w*(?:[ -][^\W\d_]\w*)+")


def own_texts_beside(output: Path) -> Path:
    """Where the texts of a run are kept: an audit can be given the same file."""
    return output.with_name(f"{output.name}-retain.jsonl")


def own_texts(
    load: Callable[[], tuple[Any, Any]],
    forget: Sequence[Example],
    path: Path,
    *,
    seed: int,
    report: Callable[[str], None],
) -> tuple[Example, ...]:
    """The texts in ``path`` if this model wrote them for this request; else they are written there.

    Raises:
        DataError: the model writes too little that is not of the forget set.
        OutputError: the file is somebody else's.
    """
    model, tokenizer = load()
    mark = f"{SELF}-{seed}-{hash_model(model)[:12]}-"
    if os.path.lexists(path):
        texts = tuple(read_examples(str(path)))
        if not texts or not all(text.id.startswith(mark) for text in texts):
            raise OutputError(
                f"{path} already exists",
                why="it is where the model's own texts go, and this model did not write it with this seed.",
                fix="Move it away, choose another --output, or pass it as --retain FILE.",
            )
        return texts
    report(f"no retain set: the model writes up to {WANTED} texts of its own to keep, in {path}")
    texts = tuple(
        replace(text, id=f"{mark}{number}")
        for number, text in enumerate(sample_own_texts(model, tokenizer, forget, seed=seed, count=WANTED))
    )
    write_examples(path, texts, private=True)
    return texts


def sample_own_texts(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    forget: Sequence[Example],
    *,
    seed: int,
    count: int = WANTED,
) -> list[Example]:
    """At most ``count`` texts, each once, none of which repeats the forget set.

    Questions and documents in the proportion of the forget set.

    Raises:
        DataError: there are fewer than ``FEWEST``.
    """
    asked = [example for example in forget if not example.is_document]
    documents = [example for example in forget if example.is_document]
    forbidden = Forbidden(forget)
    found: dict[tuple[str, str], Example] = {}
    for examples in filter(None, (asked, documents)):
        form = _form(asked, tokenizer) if examples is asked else _OwnDocuments(first_token(tokenizer))
        lengths = [len(encode(each, tokenizer, max_length=LONGEST)[0].input_ids) for each in examples]
        wanted = round(count * len(examples) / len(forget))
        found |= _sampled(model, tokenizer, form, forbidden, count=wanted, longest=max(lengths), seed=seed)
    if len(found) < FEWEST:
        raise DataError(
            "a retain set that the model writes itself",
            why=f"it wrote only {len(found)} texts that do not repeat the forget set; {FEWEST} are needed.",
            fix="Pass --retain FILE: some hundred texts of the kind the model is to go on knowing.",
        )
    return list(found.values())


def _sampled(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    form: _OwnForm,
    forbidden: Forbidden,
    *,
    count: int,
    longest: int,
    seed: int,
) -> dict[tuple[str, str], Example]:
    ends = sorted(end_tokens(model, tokenizer))
    found: dict[tuple[str, str], Example] = {}
    for number in range(ROUNDS):
        sampled = sample_answers(
            model,
            [form.opening] * (count - len(found)),
            new_tokens=min(LONGEST, 2 * longest),
            eos_ids=ends,
            pad_id=tokenizer.pad_token_id or 0,
            seed=seed + number,
        )
        for ids in sampled:
            text = form.example([token for token in ids if token not in ends], tokenizer)
            if text is None or "\0" in text.text:  # no data file may hold it
                continue
            if not forbidden.is_in(f"{text.prompt} {text.completion}"):
                found.setdefault((text.prompt, text.completion), text)
        if len(found) >= count:
            break
    return found


class Forbidden:
    """What no retain text may hold: runs of words of the forget set, and whom or what it is about.

    A name is two or more capitalised words in a row. Those of the questions count, and those that occur
    more than once in a document; answers may be true of others, too.
    """

    def __init__(self, forget: Sequence[Example]) -> None:
        texts = [f"{example.prompt} {example.completion}" for example in forget]
        runs = Counter(run for text in texts for run in set(_runs(_words(text), SHARED_WORDS)))
        self.runs = {run for run, count in runs.items() if count < COMMON}
        self.names: set[tuple[str, ...]] = set()
        for example in forget:
            counts = Counter(run for name in _names(example.text) for run in _runs(name, 2))
            asked = {run for name in _names(example.prompt) for run in _runs(name, 2)}
            self.names |= asked | {run for run, count in counts.items() if count > 1}

    def is_in(self, text: str) -> bool:
        """Whether a text repeats any of it."""
        words = _words(text)
        return not self.runs.isdisjoint(_runs(words, SHARED_WORDS)) or not self.names.isdisjoint(
            _runs(words, 2)
        )


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _names(text: str) -> Iterator[list[str]]:
    for match in _NAME.finditer(text):
        name: list[str] = []
        for word in _WORD.findall(match[0]):
            if word[0].isupper():
                name.append(word.casefold())
            else:
                yield name
                name = []
        yield name


def _runs(words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[start : start + length]) for start in range(len(words) - length + 1))


class _OwnForm(Protocol):
    """A kind of text: the tokens it begins with, and how one is read from what follows them."""

    opening: list[int]

    def example(self, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Example | None: ...


class _OwnDocuments:
    """Running texts, from where a text begins."""

    def __init__(self, opening: list[int]) -> None:
        self.opening = opening

    def example(self, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Example | None:
        text = str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
        return Example(id="", completion=text) if len(text.split()) >= FEWEST_WORDS else None


class _OwnQuestions:
    """Questions and answers: ``head`` begins and ``tail`` ends a question; a blank line ends an answer."""

    def __init__(self, opening: list[int], head: str, tail: str) -> None:
        self.opening, self.head, self.tail = opening, head, tail

    def example(self, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Example | None:
        text = str(tokenizer.decode([*self.opening, *ids], skip_special_tokens=True))
        question, tail, answer = text.removeprefix(self.head).partition(self.tail)
        answer = answer.partition("\n\n")[0].rstrip()
        if not (question.strip() and tail and answer.strip()) or "\n\n" in question:
            return None
        return Example(id="", prompt=f"{self.head}{question}{tail}", completion=answer)


class _OwnChats:
    """Chats of one turn: ``tail`` are the tokens of the template between question and answer."""

    def __init__(self, opening: list[int], tail: list[int]) -> None:
        self.opening, self.tail = opening, tail

    def example(self, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Example | None:
        size = len(self.tail)
        starts = (at for at in range(len(ids) - size) if list(ids[at : at + size]) == self.tail)
        start = next(starts, None)
        if start is None:
            return None
        question, answer = (
            str(tokenizer.decode(part, skip_special_tokens=True)).strip()
            for part in (ids[:start], ids[start + size :])
        )
        if not (question and answer):
            return None
        return Example(id="", prompt=question, completion=answer, is_chat=True)


def _form(asked: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> _OwnForm:
    prompts = [encode_prompt(example, tokenizer) for example in asked]
    opening = shared_prefix(prompts)
    if asked[0].is_chat:
        backwards = shared_prefix([prompt[::-1] for prompt in prompts])
        return _OwnChats(opening, backwards[::-1])
    texts = [example.prompt for example in asked]
    tail = _common([text[::-1] for text in texts])[::-1]
    return _OwnQuestions(opening or first_token(tokenizer), _common(texts), tail)


def _common(texts: Sequence[str]) -> str:
    """What all texts begin with, without the beginning of a word."""
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False))
    return re.sub(r"\w+$", "", "".join(column[0] for column in columns))
