"""Clean and corrupt prompts side by side: what the model is asked, and the same of somebody else.

Shapes: B pairs of a batch, T positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor

from expunge.corpus.batching import collate
from expunge.corpus.readers import read_examples
from expunge.errors import DataError
from expunge.scope.evidence import Evidence
from expunge.scope.facts import Fact, differing, partner, read_facts
from expunge.types import Example


class Contrast(NamedTuple):
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


def contrasts(evidence: Evidence, *, items: int, file: Path | None = None) -> list[Contrast]:
    """Contrasts for the facts of the forget set that have one, of at most ``items`` facts spread over it.

    Without a file the corrupt prompt is that of somebody else in the same template: the most alike one
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
    found = [Contrast(fact, other) for fact, other in pairs if other is not None]
    if not found:
        raise DataError(
            "nothing to contrast the forget set's prompts with",
            why="no other prompt is of the same template, as long in tokens, and asks for another answer.",
            fix="Set scope.contrast to a file of corrupt prompts, or use a scope that needs none.",
        )
    return found


def batches(found: Sequence[Contrast], *, batch_size: int, device: torch.device) -> Iterator[Contrasts]:
    """The contrasts as tensors, equally long ones together."""
    ordered = sorted(found, key=lambda pair: len(pair.clean.prompt))
    for start in range(0, len(ordered), batch_size):
        yield _collated(ordered[start : start + batch_size]).to(device)


def _collated(pairs: Sequence[Contrast]) -> Contrasts:
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


def _read(evidence: Evidence, examples: Sequence[Example]) -> list[Fact]:
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
