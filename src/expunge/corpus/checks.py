"""What must hold before a run: something to forget, and nothing both to forget and to keep."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from expunge.corpus.chat import chat_frame
from expunge.corpus.tokenise import splits_token
from expunge.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

    from expunge.types import Example

SHOWN = 3
THOUGHT = "</think>"
"""What ends the reasoning in an answer."""


def check_sets(
    forget: Sequence[Example],
    retain: Sequence[Example],
    holdout: Sequence[Example] = (),
    *,
    allow_overlap: bool = False,
) -> list[str]:
    """Warnings about the sets; what cannot be meant is refused.

    Texts are compared without regard to case and white space. ``allow_overlap`` turns the refusal
    of a text in two sets into a warning.

    Raises:
        DataError: the forget set is empty, an id occurs twice in a set, or a text of the forget
            set is also in the retain set or the holdout.
    """
    if not forget:
        raise DataError("the forget set", why="it is empty.", fix="Give at least one example to forget.")
    sets = {"forget set": forget, "retain set": retain, "holdout": holdout}
    warnings: list[str] = []
    for name, examples in sets.items():
        _refuse_repeated_ids(name, examples)
        warnings += _repeated_texts(name, examples)
    for name in ("retain set", "holdout"):
        shared = _shared(forget, sets[name])
        if not shared:
            continue
        overlap = f"{len(shared)} of {len(forget)} forget examples are also in the {name}: {_some(shared)}"
        if not allow_overlap:
            raise DataError(
                f"the forget set and the {name}",
                why=f"{overlap}.",
                fix=f"Take them out of the {name}, or allow the overlap (--allow-overlap) if it is meant.",
            )
        warnings.append(f"{overlap}.")
    return warnings


def reading_warnings(
    sets: Mapping[str, Sequence[Example]], tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """What of the sets is read otherwise than written, one warning each.

    That is where a prompt and its completion meet inside a token (not looked for in chats: templates put a
    special token or a line break before an answer), and where a chat template drops an answer's reasoning.

    Raises:
        DataError: a chat with reasoning cannot be written.
    """
    warnings = []
    for name, examples in sets.items():
        thinking = [each for each in examples if each.is_chat and THOUGHT in each.completion]
        left_out = [each.id for each in thinking if THOUGHT not in chat_frame(each, tokenizer).answer]
        if left_out:
            warnings.append(
                f"In {len(left_out)} of {len(thinking)} chats of the {name} with reasoning the chat "
                f"template leaves it out ({_some(left_out)}): it is neither trained on nor measured."
            )
        pairs = [each for each in examples if each.prompt and not each.is_chat]
        split = [each.id for each in pairs if splits_token(each, tokenizer)]
        if split:
            warnings.append(
                f"In {len(split)} of {len(pairs)} prompts of the {name} the completion begins inside a "
                f"token ({_some(split)}): it is read from the beginning of that token, which the prompt "
                "alone does not have. Let prompts end without white space and completions begin with it."
            )
    return warnings


def normalised(example: Example) -> str:
    """The example's whole text in one case, every run of white space as one space."""
    turns = " ".join(turn.content for turn in example.turns)
    return " ".join(f"{turns} {example.text}".split()).casefold()


def _refuse_repeated_ids(name: str, examples: Sequence[Example]) -> None:
    counts = Counter(example.id for example in examples)
    repeated = [identity for identity, count in counts.items() if count > 1]
    if repeated:
        raise DataError(
            f"the {name}",
            why=f"{len(repeated)} ids occur more than once: {_some(repeated)}.",
            fix="Give every example a unique id, or leave ids out to have the rows numbered.",
        )


def _repeated_texts(name: str, examples: Sequence[Example]) -> list[str]:
    counts = Counter((example.turns, example.prompt, example.completion) for example in examples)
    extra = sum(counts.values()) - len(counts)
    if not extra:
        return []
    return [f"The {name} repeats itself: {extra} of {len(examples)} examples say what an earlier one says."]


def _shared(forget: Iterable[Example], other: Iterable[Example]) -> list[str]:
    """Ids of the forget examples whose text is also in ``other``."""
    texts = {normalised(example) for example in other}
    return [example.id for example in forget if normalised(example) in texts]


def _some(names: Sequence[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(map(repr, names[:SHOWN])) + (f" and {rest} more" if rest > 0 else "")
