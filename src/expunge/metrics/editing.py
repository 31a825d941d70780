"""An update of facts: is the new answer given, in other words too, and all else answered as before?"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PositiveInt

from expunge.metrics import metrics
from expunge.metrics.answers import no_room, prefetch_replies, replies
from expunge.metrics.base import Metric, not_applicable
from expunge.types import Score

if TYPE_CHECKING:
    from expunge.inference.observer import Observer
    from expunge.metrics.base import Measured
    from expunge.metrics.probes import Probes
    from expunge.types import Example

PERCENT = 100.0


class Answered(Metric):
    """Share of the questions whose greedy reply, up to its first line break, is the wanted answer.

    Case and white space do not matter, everything else does.

    Source: the definitions usual for knowledge editing, as in Ni et al. 2023 (arXiv 2311.08011); the
    paper's exact form could not be had.
    """

    source: ClassVar[str] = "knowledge editing, as in Ni et al. 2023 (arXiv 2311.08011)"
    scale: ClassVar[str] = "percent"
    lower_is_better: ClassVar[bool | None] = False
    supports_retention: ClassVar[bool] = False
    default: ClassVar[bool] = False
    caveats: ClassVar[str] = (
        "Word for word: the right answer in other words, or with one more word, counts as wrong."
    )
    split: ClassVar[str]

    max_new_tokens: PositiveInt = Field(default=32, description="The most tokens of an answer.")

    @abstractmethod
    def wanted(self, question: Example) -> str | None:
        """The answer that should be given; ``None`` where the question has none."""

    def prefetch(self, observed: Observer, probes: Probes) -> None:
        """Other metrics' questions are answered in the same batches."""
        prefetch_replies(observed, self._asked(probes), max_new_tokens=self.max_new_tokens)

    def measure(self, observed: Observer, probes: Probes) -> Measured:
        """Ask every question of the split once, greedily."""
        questions = self._asked(probes)
        if not questions:
            return not_applicable(self.split, f"the {self.split} split has no question with such an answer")
        completions = replies(observed, questions, max_new_tokens=self.max_new_tokens)
        reason = no_room(observed, self.max_new_tokens)
        return {
            self.split: [
                self._score(question, reply, reason)
                for question, reply in zip(questions, completions, strict=True)
            ]
        }

    def _asked(self, probes: Probes) -> list[Example]:
        return [question for question in probes.questions(self.split) if self.wanted(question) is not None]

    def _score(self, question: Example, reply: str | None, reason: str) -> Score:
        wanted = self.wanted(question) or ""
        detail = {"question": question.prompt, "truth": wanted}
        if reply is None:
            return Score(item=question.id, value=None, group=question.group, unscored=reason, detail=detail)
        line = (reply.strip().splitlines() or [""])[0]
        return Score(
            item=question.id,
            value=PERCENT * (_plain(line) == _plain(wanted)),
            group=question.group,
            detail={**detail, "said": reply},
        )


class NewAnswer(Answered):
    """The wanted answer is the new one, the first of a question's ``wrong`` ones; the old one is its own.

    Questions without a wrong answer are left out.
    """

    def wanted(self, question: Example) -> str | None:
        return question.wrong[0] if question.wrong else None


@metrics.register("edit_reliability")
class Reliability(NewAnswer):
    """The new answers to the questions that were edited."""

    title: ClassVar[str] = "Reliability of an update of facts"
    definition: ClassVar[str] = "share of the forget set's questions that get their new answer"
    split: ClassVar[str] = "forget"


@metrics.register("edit_generality")
class Generality(NewAnswer):
    """The new answers to the same questions in other words."""

    title: ClassVar[str] = "Generality of an update of facts"
    definition: ClassVar[str] = "share of the questions in other words that get the new answer"
    needs_splits: ClassVar[tuple[str, ...]] = ("paraphrase_questions",)
    split: ClassVar[str] = "paraphrase_questions"


@metrics.register("edit_locality")
class Locality(Answered):
    """The answers to the neighbours' questions, which should be what they were: their own."""

    title: ClassVar[str] = "Locality of an update of facts"
    definition: ClassVar[str] = "share of the neighbours' questions still answered rightly"
    needs_splits: ClassVar[tuple[str, ...]] = ("neighbours",)
    split: ClassVar[str] = "neighbours"

    def wanted(self, question: Example) -> str | None:
        return question.completion


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
