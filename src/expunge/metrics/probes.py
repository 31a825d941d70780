"""The texts and questions an evaluation asks about, by split."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from expunge.errors import DataError
from expunge.record import hash_json

if TYPE_CHECKING:
    from expunge.types import Example


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """The evaluation splits. Documents and questions may stand side by side in one split.

    ``holdout`` was never trained on by any model. ``neighbours`` are questions close to the forget
    set whose answers must stay. ``paraphrase_questions`` asks what ``forget`` asks in other words. The
    ``*_icl`` splits are the solved questions put before a question to show the form of an answer.
    ``verbatim`` are beginnings of forget documents (prompts) and their continuations. ``real_authors`` and
    ``world_facts`` are common knowledge (TOFU's); ``choices`` are questions with choices about what is
    to be forgotten, ``ability`` such about all else. ``cloze`` and ``adversarial`` ask of the forget set
    with a blank, and by tricks; ``neighbours_fill_in`` has blanks in what is to stay.
    """

    forget: tuple[Example, ...]
    retain: tuple[Example, ...] = ()
    holdout: tuple[Example, ...] = ()
    forget_icl: tuple[Example, ...] = ()
    retain_icl: tuple[Example, ...] = ()
    neighbours: tuple[Example, ...] = ()
    paraphrase_questions: tuple[Example, ...] = ()
    verbatim: tuple[Example, ...] = ()
    real_authors: tuple[Example, ...] = ()
    world_facts: tuple[Example, ...] = ()
    choices: tuple[Example, ...] = ()
    ability: tuple[Example, ...] = ()
    cloze: tuple[Example, ...] = ()
    adversarial: tuple[Example, ...] = ()
    neighbours_fill_in: tuple[Example, ...] = ()

    def __post_init__(self) -> None:
        for spec in fields(self):
            counts = Counter(example.id for example in self.split(spec.name))
            twice = [name for name, count in counts.items() if count > 1]
            if twice:
                raise DataError(
                    f"the {spec.name} probes",
                    why=f"the id {twice[0]!r} occurs {counts[twice[0]]} times; scores are paired by id.",
                    fix="Give every example of a split its own id.",
                )

    def split(self, name: str) -> tuple[Example, ...]:
        """The examples of one split."""
        examples: tuple[Example, ...] = getattr(self, name)
        return examples

    def documents(self, name: str) -> tuple[Example, ...]:
        """The running texts of one split."""
        return tuple(example for example in self.split(name) if example.is_document)

    def questions(self, name: str) -> tuple[Example, ...]:
        """The examples of one split that have a prompt to answer."""
        return tuple(example for example in self.split(name) if not example.is_document)

    @property
    def hash(self) -> str:
        """SHA-256 over every example of every split: other probes, other hash."""
        return hash_json(asdict(self))
