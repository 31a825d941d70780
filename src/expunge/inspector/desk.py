"""The inspector without its page: questions go in, answers and readings come out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, NamedTuple

from expunge.audit.summary import read_summary
from expunge.errors import ExpungeError, ModelError, RecipeError
from expunge.inspector.items import Item, read_items, truths
from expunge.inspector.lens import Reading, read_layers
from expunge.inspector.pool import FULL, Loaded, Pool
from expunge.inspector.prompts import read_prompt, read_truth, room_of
from expunge.inspector.shelf import SUMMARY, Shelf
from expunge.inspector.speak import answer, way_of
from expunge.inspector.weights import Erased, erased, measured
from expunge.inspector.worker import computed, streamed
from expunge.model.memory import memory_errors
from expunge.quant.parse import parse_quantizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

USUAL = (FULL, "int8", "int4", "int3", "nf4", "fp4")
MAX_TOKENS = 48
MAX_LENGTH = 2048
"""Tokens a model is given at once, if it can read so many."""
SMALLER = "Start the inspector with a smaller --budget, so that models are let go sooner."


class Who(NamedTuple):
    """A model of the shelf at a precision and an epoch (``None``: finished)."""

    model: str
    precision: str = FULL
    epoch: int | None = None


class Look(NamedTuple):
    """How a model sees the true answer: its tokens as text, the reading, and the vocabulary's words."""

    tokens: list[str]
    reading: Reading
    best: list[list[str]]


class Answer(NamedTuple):
    """What one model says so far; ``note`` for what was cut or refused.

    ``over``: all is said. ``look`` comes after it, where the true answer is known.
    """

    text: str = ""
    note: str = ""
    over: bool = False
    look: Look | None = None


@dataclass(frozen=True)
class Desk:
    """Everything the page asks. All methods may be called by many threads at once."""

    shelf: Shelf
    pool: Pool
    max_tokens: int = MAX_TOKENS
    max_length: int = MAX_LENGTH

    @cached_property
    def items(self) -> list[Item]:
        """The items of the audits, the one of which most came back first."""
        return read_items(self.shelf.audits)

    @cached_property
    def _truths(self) -> dict[str, str]:
        return truths(self.items)

    def truth_of(self, prompt: str) -> str | None:
        """The true answer, when the prompt is an item's."""
        return self._truths.get(prompt)

    @cached_property
    def precisions(self) -> list[str]:
        """Full precision, the usual formats, and what the audits used and needs no calibration text."""
        audits = [read_summary(audit / SUMMARY) for audit in self.shelf.audits]
        used = [transform.label for audit in audits for transform in audit.transforms]
        return [label for label in dict.fromkeys([*USUAL, *used]) if label == FULL or _is_plain(label)]

    def answers(self, prompt: str, asked: Sequence[Who], *, truth: str = "") -> Iterator[list[Answer]]:
        """What each model says, side by side: the whole row again after every token.

        With a ``truth`` each model is also read token by token and layer by layer, in the same loan. A
        model that cannot answer says why in its note; the others go on.
        """
        row = [Answer() for _ in asked]
        for place, who in enumerate(asked):
            for row[place] in streamed(partial(self._told, prompt, truth, who)):
                yield list(row)

    def _told(
        self, prompt: str, truth: str, who: Who, show: Callable[[Answer], None], stopped: Callable[[], bool]
    ) -> None:
        said = Answer()
        try:
            path = self.shelf.find(who.model).at(who.epoch)
            with memory_errors(fix=SMALLER), self.pool.lent(path, who.precision) as lent:
                said = self._answer(prompt, lent, show, stopped)
                show(said)
                if truth and not stopped():
                    show(said._replace(look=self._look(prompt, truth, lent)))
        except ExpungeError as error:
            show(said._replace(note=f"{said.note} {error}".strip(), over=True))

    def _answer(
        self, prompt: str, lent: Loaded, show: Callable[[Answer], None], stopped: Callable[[], bool]
    ) -> Answer:
        room = room_of(lent.model, self.max_length) - self.max_tokens
        read = read_prompt(prompt, lent.tokenizer, room=max(room, 2))
        note = f"The first {read.dropped:,} tokens of the prompt were left out." if read.dropped else ""
        if not read.ids:
            return Answer(note="There is nothing to continue.", over=True)
        text = answer(
            lent.model,
            lent.tokenizer,
            read.ids,
            way_of(prompt, self.max_tokens),
            told=lambda said: show(Answer(said, note)),
            stopped=stopped,
        )
        return Answer(text, note, over=True)

    def _look(self, prompt: str, truth: str, lent: Loaded) -> Look:
        room = room_of(lent.model, self.max_length)
        reading = read_layers(lent.model, read_truth(prompt, truth, lent.tokenizer, room=room))
        word = lent.tokenizer.decode
        best = [[word([seen.best]) for seen in layer] for layer in reading.layers]
        return Look([word([token]) for token in reading.tokens], reading, best)

    def erased(self, who: Who) -> list[Erased]:
        """What the grid erased of the unlearning, tensor by tensor: the audit's numbers where it looked.

        Raises:
            ExpungeError: there is no target, or the two models cannot be compared.
        """
        model = self.shelf.find(who.model)
        known = [] if who.epoch is not None else erased(self.shelf.audits, model.name, who.precision)
        if known:
            return known
        if model.target is None:
            raise ModelError(
                f"what {who.precision} erased of {model.name}",
                why="that is told by comparing it with the target, which is not here.",
                fix="Inspect the audit, or an unlearned model whose source still lies where it was.",
            )
        target, path = model.target, model.at(who.epoch)
        return computed(lambda: measured(target, path, who.precision))


def _is_plain(label: str) -> bool:
    """Whether a quantizer of that name can be applied to a model as it stands."""
    try:
        return not parse_quantizer(label).calibrated
    except RecipeError:
        return False
