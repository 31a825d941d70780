"""Facts as localisers see them: a prompt, whom it is about, and its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from expunge.corpus.tokenise import Encoded, encode
from expunge.types import Example

ALIKE = 0.5
"""Two prompts are of one template if at least this share of their tokens stands in both."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One prompt. ``answer`` are the tokens that count; ``subject`` are the places of whom it is about."""

    example: Example
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    subject: tuple[int, ...]

    @property
    def relation(self) -> tuple[int, ...]:
        """The prompt without its subject: what is asked, whoever it is asked of."""
        return tuple(token for place, token in enumerate(self.prompt) if place not in self.subject)

    @property
    def encoded(self) -> Encoded:
        """The prompt as a sequence; its last token counts."""
        last = len(self.prompt) - 1
        return Encoded(list(self.prompt), [place == last for place in range(last + 1)], self.example.id)


def read_facts(examples: Sequence[Example], tokenizer: Any, *, max_length: int) -> list[Fact]:
    """The examples that put a prompt before what counts; a document without spans has none and is left out.

    The prompt is everything before the first token that counts. Its subject is the example's ``group``
    where the prompt names it; elsewhere it is where the prompt differs from the most alike other one
    (``partner``). Without either the subject is empty.
    """
    facts = []
    for example in examples:
        encoded = encode(example, tokenizer, max_length=max_length)[0]
        first = encoded.mask.index(True)
        if example.is_document and not example.spans:
            continue
        prompt = tuple(encoded.input_ids[:first])
        subject = _named(prompt, example.group, tokenizer) if example.group else ()
        answer = tuple(
            token for token, counts in zip(encoded.input_ids, encoded.mask, strict=True) if counts
        )
        facts.append(Fact(example, prompt, answer, subject))
    return [fact if fact.subject else _told_by_partner(fact, facts) for fact in facts]


def partner(fact: Fact, others: Sequence[Fact]) -> Fact | None:
    """The prompt of the same template about somebody else, or ``None`` if there is none.

    Its answer begins with another token, since the first one tells what patching does. It has as many
    tokens, so that places correspond, and at least half of them are the same at the same place. It
    belongs to another group, where both say theirs. Of several the most alike is taken, then the first.
    """
    fitting = [
        other
        for other in others
        if len(other.prompt) == len(fact.prompt)
        and other.prompt != fact.prompt
        and other.answer[0] != fact.answer[0]
        and (other.example.group is None or other.example.group != fact.example.group)
        and _same(fact, other) >= ALIKE * len(fact.prompt)
    ]
    return max(fitting, key=lambda other: _same(fact, other), default=None)


def differing(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    """The places of two prompts of one length from their first to their last difference."""
    places = [place for place, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
    return tuple(range(places[0], places[-1] + 1)) if places else ()


def _same(one: Fact, other: Fact) -> int:
    return sum(a == b for a, b in zip(one.prompt, other.prompt, strict=True))


def _told_by_partner(fact: Fact, others: Sequence[Fact]) -> Fact:
    found = partner(fact, others)
    if found is None:
        return fact
    return Fact(fact.example, fact.prompt, fact.answer, differing(fact.prompt, found.prompt))


def _named(prompt: tuple[int, ...], group: str, tokenizer: Any) -> tuple[int, ...]:
    """The fewest tokens in a row whose text holds the name, the first such; none if it is not there."""
    ends = range(1, len(prompt) + 1)
    end = next((end for end in ends if group in tokenizer.decode(prompt[:end])), 0)
    starts = reversed(range(end))
    start = next((start for start in starts if group in tokenizer.decode(prompt[start:end])), end)
    return tuple(range(start, end))
