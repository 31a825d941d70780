"""KnowMem and its siblings: does the model still answer questions about a split?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import NonNegativeInt, PositiveInt

from expunge.metrics import metrics
from expunge.metrics.base import Metric, absent
from expunge.metrics.rouge import rouge_l, words
from expunge.types import Score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expunge.metrics.base import Measured
    from expunge.metrics.probes import Probes
    from expunge.score.observer import Observer
    from expunge.types import Example

STOPS = ("\n\n", "\nQuestion", "Question:")
"""Where an answer ends: the model has gone on to write the next question."""


class KnowMem(Metric):
    """ROUGE-L F1 (x 100) of the greedy answer against the true one, after a few solved questions.

    ``shots`` solved questions at most stand before the question, each followed by an empty line;
    the question itself is never among them. Without any, and in a chat, the question is asked alone.

    Source: Shi et al. 2024 (MUSE, arXiv 2407.06460), section 3.1 and its released evaluation.
    """

    source: ClassVar[str] = "MUSE (arXiv 2407.06460): KnowMem"
    split: ClassVar[str]
    shots_from: ClassVar[str]

    shots: NonNegativeInt = 10
    max_new_tokens: PositiveInt = 32
    stemmer: bool = False

    def measure(self, observed: Observer, probes: Probes) -> Measured:
        """Ask every question of the split once, greedily."""
        questions = probes.questions(self.split)
        if not questions:
            return absent(self.split, f"the {self.split} split has no questions")
        shots = [self._shots(question, probes.split(self.shots_from)) for question in questions]
        # A chat goes to the model as it is: its template, not solved questions, shows the form.
        prompts = [
            question if question.is_chat else "".join(chosen) + question.prompt
            for question, chosen in zip(questions, shots, strict=True)
        ]
        said = observed.greedy(prompts, max_new_tokens=self.max_new_tokens, stop=STOPS)
        return {
            self.split: [
                self._score(question, answer, len(chosen))
                for question, answer, chosen in zip(questions, said, shots, strict=True)
            ]
        }

    def _shots(self, question: Example, solved: Sequence[Example]) -> list[str]:
        if question.is_chat:
            return []
        others = [each for each in solved if each.prompt not in {"", question.prompt} and not each.is_chat]
        return [f"{each.prompt}{each.completion}\n\n" for each in others[: self.shots]]

    def _score(self, question: Example, said: str, shots: int) -> Score:
        truth = question.completion
        detail = {"question": question.prompt, "truth": truth, "said": said, "shots": str(shots)}
        if not words(truth):
            return Score(
                item=question.id,
                value=None,
                group=question.group,
                unscored="the true answer has no Latin letter or digit, which is all ROUGE counts",
                detail=detail,
            )
        value = 100 * rouge_l(truth, said, stemmer=self.stemmer).f1
        return Score(item=question.id, value=value, group=question.group, detail=detail)


@metrics.register("knowmem_forget")
class KnowMemForget(KnowMem):
    """Knowledge of the forget set."""

    title: ClassVar[str] = "Knowledge of the forget set"
    definition: ClassVar[str] = "ROUGE-L of the answers to questions about the forget set"
    lower_is_better: ClassVar[bool | None] = True
    split: ClassVar[str] = "forget"
    shots_from: ClassVar[str] = "forget_icl"


@metrics.register("second_phrasing")
class SecondPhrasing(KnowMem):
    """Knowledge of the forget set, asked in words that were not trained on."""

    title: ClassVar[str] = "Knowledge of the forget set, asked otherwise"
    definition: ClassVar[str] = "ROUGE-L of the answers to second phrasings of the forget questions"
    lower_is_better: ClassVar[bool | None] = True
    split: ClassVar[str] = "second_phrasing"
    shots_from: ClassVar[str] = "forget_icl"


@metrics.register("utility")
class Utility(KnowMem):
    """Knowledge of the retain set: what the model must still be good for."""

    title: ClassVar[str] = "Utility"
    definition: ClassVar[str] = "ROUGE-L of the answers to questions about the retain set"
    lower_is_better: ClassVar[bool | None] = False
    split: ClassVar[str] = "retain"
    shots_from: ClassVar[str] = "retain_icl"


@metrics.register("neighbours")
class Neighbours(KnowMem):
    """Knowledge next to the forget set that nobody asked to remove."""

    title: ClassVar[str] = "Knowledge of the neighbours"
    definition: ClassVar[str] = "ROUGE-L of the answers to questions close to the forget set"
    lower_is_better: ClassVar[bool | None] = False
    split: ClassVar[str] = "neighbours"
    shots_from: ClassVar[str] = "retain_icl"
