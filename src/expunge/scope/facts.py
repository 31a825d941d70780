"""Facts as localisers use them, with clean and corrupt prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from expunge.corpus.batching import collate
from expunge.corpus.readers import read_examples
from expunge.corpus.tokenise import Encoded, encode
from expunge.errors import DataError
from expunge.scope import Saliency
from expunge.types import Example


@dataclass(frozen=True, kw_only=True)
class LocaliserInputs:
    """The texts of a run, how to read them, and its seed; ``saliency`` as scopes are given it."""

    forget: Sequence[Example]
    retain: Sequence[Example]
    tokenizer: Any
    saliency: Saliency
    seed: int = 0
    max_length: int = 2048
    batch_size: int = 8


# Pairs of clean and corrupt prompts: a question, and the same question about another subject.
#
# Shapes: B pairs of a batch, T positions.


class ContrastPair(NamedTuple):
    """A fact, and a prompt of as many tokens that asks for another answer."""

    clean: Fact
    corrupt: Fact


class Contrasts(NamedTuple):
    """A batch of them.

    Ids, which are real and which differ between the two prompts, [B, T]; the last place of each prompt,
    and the first tokens of the clean and of the corrupt one's answer, [B].
    """

    clean_BT: Tensor
    corrupt_BT: Tensor
    real_BT: Tensor
    subject_BT: Tensor
    last_B: Tensor
    true_B: Tensor
    false_B: Tensor

    def to(self, device: torch.device) -> Self:
        """The same batch on ``device``."""
        return type(self)(*(tensor.to(device) for tensor in self))


def contrasts(evidence: LocaliserInputs, *, items: int, file: Path | None = None) -> list[ContrastPair]:
    """Contrasts for the facts of the forget set that have one, of at most ``items`` facts spread over it.

    Without a file the corrupt prompt is that of another subject in the same template: the most alike one
    of the forget set, or of the retain set where the forget set has none (``facts.partner``). A file
    holds examples with the id of a forget example, a prompt of as many tokens, and its answer.

    Raises:
        DataError: no fact has a contrast, or the file's do not fit.
    """
    facts = _read(evidence, evidence.forget)
    chosen = facts[:: -(-len(facts) // items)] if facts else []
    if file is not None:
        given = {fact.example.id: fact for fact in _read(evidence, read_examples(file))}
        pairs = [(fact, given.get(fact.example.id)) for fact in chosen]
        _refuse_misfits(pairs, file)
    else:
        retain = _read(evidence, evidence.retain)
        pairs = [(fact, partner(fact, facts) or partner(fact, retain)) for fact in chosen]
    found = [ContrastPair(fact, other) for fact, other in pairs if other is not None]
    if not found:
        raise DataError(
            "nothing to contrast the forget set's prompts with",
            why="no other prompt is of the same template, as long in tokens, and asks for another answer.",
            fix="Set scope.contrast to a file of corrupt prompts, or use a scope that needs none.",
        )
    return found


def batches(found: Sequence[ContrastPair], *, batch_size: int, device: torch.device) -> Iterator[Contrasts]:
    """The contrasts as tensors, equally long ones together."""
    ordered = sorted(found, key=lambda pair: len(pair.clean.prompt))
    for start in range(0, len(ordered), batch_size):
        yield _collated(ordered[start : start + batch_size]).to(device)


def _collated(pairs: Sequence[ContrastPair]) -> Contrasts:
    clean = collate([pair.clean.encoded for pair in pairs], pad_id=0)
    corrupt = collate([pair.corrupt.encoded for pair in pairs], pad_id=0)
    subject_BT = torch.zeros_like(clean.mask_BT)
    for row, pair in enumerate(pairs):
        subject_BT[row, list(differing(pair.clean.prompt, pair.corrupt.prompt))] = True
    return Contrasts(
        clean.input_ids_BT,
        corrupt.input_ids_BT,
        clean.attention_mask_BT,
        subject_BT,
        torch.tensor([len(pair.clean.prompt) - 1 for pair in pairs]),
        torch.tensor([pair.clean.answer[0] for pair in pairs]),
        torch.tensor([pair.corrupt.answer[0] for pair in pairs]),
    )


def _read(evidence: LocaliserInputs, examples: Sequence[Example]) -> list[Fact]:
    return read_facts(examples, evidence.tokenizer, max_length=evidence.max_length)


def _refuse_misfits(pairs: Sequence[tuple[Fact, Fact | None]], file: Path) -> None:
    for fact, other in pairs:
        if other is None:
            continue
        if len(other.prompt) != len(fact.prompt):
            why = f"it has {len(other.prompt)} tokens, and the prompt it corrupts has {len(fact.prompt)}."
        elif other.answer[0] == fact.answer[0] or other.prompt == fact.prompt:
            why = "its prompt, or the first token of its answer, is that of the forget example."
        else:
            continue
        raise DataError(
            f"the corrupt prompt {fact.example.id!r} in {file}",
            why=why,
            fix="Write one that is as long and asks for another answer, or leave the row out.",
        )


# Facts as localisers see them: a prompt, whom it is about, and its answer.

ALIKE = 0.5
"""Two prompts are of one template if at least this share of their tokens is in both."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One prompt. ``answer`` are the tokens that count; ``subject`` are the places of whom it is about."""

    example: Example
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    subject: tuple[int, ...]

    @property
    def relation(self) -> tuple[int, ...]:
        """The prompt without its subject."""
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
    """The prompt of the same template about another subject, or ``None`` if there is none.

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
