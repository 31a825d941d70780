"""KnowMem: what answers to questions tell a model knows, and retention, ratios of such knowledge.

Shapes: n questions of a split, R resamples.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from expunge.metrics import metrics
from expunge.metrics.answers import fits
from expunge.metrics.base import Metric, MetricRole, not_applicable
from expunge.metrics.rouge_recall import Protocol, rouge_l, stems, words
from expunge.types import Example, Score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expunge.inference.observer import Observer
    from expunge.metrics.base import Floats, Measured, Values, Weights
    from expunge.metrics.probes import Probes


STOPS = ("\n\n", "\nQuestion", "Question:")
"""Where an answer ends: the model has gone on to write the next question."""


class KnowMemPrompts(NamedTuple):
    """What is put to the model, and how many solved questions it begins with."""

    prompt: Example
    shots: int


CUT_PROMPTS = (
    "A prompt that is too long is cut at its end, and with it goes the question itself (open-unlearning's "
    "MUSE configurations read 512 tokens; ten solved questions are often more). Here solved questions are "
    "left out until the prompt fits, and every item states how many were prepended."
)
SAMPLED = (
    "The code of arXiv 2410.16454 samples at temperature 0.9 without a seed: other numbers each time, and "
    "lower ones than MUSE's greedy decoding, next to which they are printed. Here decoding is greedy."
)
STEMMED = (
    "Under one name MUSE counts words as they are, on 0-100, and open-unlearning counts stems, on 0-1. "
    "Here it is MUSE's unless a stemmer is asked for."
)


class _Questions(Metric):
    shots: NonNegativeInt = Field(
        default=10, description="The most solved questions put before a question."
    )
    max_new_tokens: PositiveInt = Field(default=32, description="The most tokens of an answer.")
    stemmer: bool = Field(default=False, description="Whether ROUGE compares stems of words.")
    protocol: Protocol = Field(
        default="muse",
        description=(
            "Whose way of measuring is followed: `muse` (words as they are), or `open_unlearning` "
            "(stems of words)."
        ),
    )


class KnowMem(_Questions):
    """ROUGE-L F1 (x 100) of the greedy answer against the true one, after a few solved questions.

    Each solved question is followed by an empty line; the question itself is never among them. Without
    any, and in a chat, the question is asked alone. The last ones are left out where the prompt would
    leave no room for the answer in the context the model was made for; a question that is too long by
    itself is not scored.

    Source: Shi et al. 2024 (MUSE, arXiv 2407.06460), section 3.1 and its released evaluation.
    """

    source: ClassVar[str] = "MUSE (arXiv 2407.06460): KnowMem"
    caveats: ClassVar[str] = (
        "It counts words in common, not truth: a refusal that repeats the question scores above 0, the "
        "right answer in other words below 100, and a model that answers nothing scores like one that "
        "forgot. Only Latin letters and digits count as words."
    )
    known_errors: ClassVar[tuple[str, ...]] = (CUT_PROMPTS, SAMPLED, STEMMED)
    split: ClassVar[str]
    shots_from: ClassVar[str]

    def prefetch(self, observed: Observer, probes: Probes) -> None:
        """Other metrics' questions are answered in the same batches."""
        prompts = [
            prompts_of_question.prompt
            for prompts_of_question in self._all_asked(observed, probes)
            if prompts_of_question is not None
        ]
        observed.expect_answers(prompts, max_new_tokens=self.max_new_tokens, stop=STOPS)

    def measure(self, observed: Observer, probes: Probes) -> Measured:
        """Ask every question of the split once, greedily."""
        questions = probes.questions(self.split)
        if not questions:
            return not_applicable(self.split, f"the {self.split} split has no questions")
        context = observed.context
        prompts_by_question = self._all_asked(observed, probes)
        prompts = [
            prompts_of_question.prompt
            for prompts_of_question in prompts_by_question
            if prompts_of_question is not None
        ]
        completions = iter(observed.greedy(prompts, max_new_tokens=self.max_new_tokens, stop=STOPS))
        return {
            self.split: [
                _unscored(question, f"the question leaves no room in the model's {context} tokens")
                if prompts_of_question is None
                else self._score(question, next(completions), prompts_of_question.shots)
                for question, prompts_of_question in zip(questions, prompts_by_question, strict=True)
            ]
        }

    def _all_asked(self, observed: Observer, probes: Probes) -> list[KnowMemPrompts | None]:
        context = observed.context
        room = None if context is None else context - self.max_new_tokens
        solved = probes.split(self.shots_from)
        return [self._asked(question, solved, room, observed) for question in probes.questions(self.split)]

    def _asked(
        self,
        question: Example,
        solved: Sequence[Example],
        room: int | None,
        observed: Observer,
    ) -> KnowMemPrompts | None:
        shots = self._shots(question, solved)
        for count in range(len(shots), -1, -1):
            # A chat goes to the model as it is: its template, not solved questions, shows the form.
            prompt = replace(question, prompt="".join(shots[:count]) + question.prompt)
            if room is None or fits(prompt, room, observed.tokenizer):
                return KnowMemPrompts(prompt, count)
        return None

    def _shots(self, question: Example, solved: Sequence[Example]) -> list[str]:
        if question.is_chat:
            return []
        others = [shot for shot in solved if shot.prompt not in {"", question.prompt} and not shot.is_chat]
        return [f"{shot.prompt}{shot.completion}\n\n" for shot in others[: self.shots]]

    def _score(self, question: Example, reply: str, shots: int) -> Score:
        truth = question.completion
        detail = {"question": question.prompt, "truth": truth, "said": reply, "shots": str(shots)}
        if not words(truth):
            return _unscored(
                question, "the true answer has no Latin letter or digit, which is all ROUGE counts", detail
            )
        value = 100 * rouge_l(truth, reply, stemmer=stems(self.protocol, stemmer=self.stemmer)).f1
        return Score(item=question.id, value=value, group=question.group, detail=detail)


def _unscored(question: Example, reason: str, detail: dict[str, str] | None = None) -> Score:
    return Score(item=question.id, value=None, group=question.group, unscored=reason, detail=detail or {})


@metrics.register("knowmem_forget")
class KnowMemForget(KnowMem):
    """Knowledge of the forget set."""

    title: ClassVar[str] = "Knowledge of the forget set"
    role: ClassVar[MetricRole] = MetricRole.KNOWLEDGE
    definition: ClassVar[str] = "ROUGE-L of the answers to questions about the forget set"
    lower_is_better: ClassVar[bool | None] = True
    split: ClassVar[str] = "forget"
    shots_from: ClassVar[str] = "forget_icl"


@metrics.register("paraphrase_questions")
class ParaphraseQuestions(KnowMem):
    """Knowledge of the forget set, asked in words that were not trained on."""

    title: ClassVar[str] = "Knowledge of the forget set, asked otherwise"
    role: ClassVar[MetricRole] = MetricRole.PARAPHRASE
    definition: ClassVar[str] = "ROUGE-L of the answers to second phrasings of the forget questions"
    lower_is_better: ClassVar[bool | None] = True
    needs_splits: ClassVar[tuple[str, ...]] = ("paraphrase_questions",)
    split: ClassVar[str] = "paraphrase_questions"
    shots_from: ClassVar[str] = "forget_icl"


@metrics.register("utility")
class Utility(KnowMem):
    """Knowledge of the retain set: what the model must still be good for."""

    title: ClassVar[str] = "Utility"
    role: ClassVar[MetricRole] = MetricRole.UTILITY
    definition: ClassVar[str] = "ROUGE-L of the answers to questions about the retain set"
    lower_is_better: ClassVar[bool | None] = False
    needs_splits: ClassVar[tuple[str, ...]] = ("retain",)
    split: ClassVar[str] = "retain"
    shots_from: ClassVar[str] = "retain_icl"


@metrics.register("neighbours")
class Neighbours(KnowMem):
    """Knowledge close to the forget set that should be retained."""

    title: ClassVar[str] = "Knowledge of the neighbours"
    definition: ClassVar[str] = "ROUGE-L of the answers to questions close to the forget set"
    lower_is_better: ClassVar[bool | None] = False
    needs_splits: ClassVar[tuple[str, ...]] = ("neighbours",)
    split: ClassVar[str] = "neighbours"
    shots_from: ClassVar[str] = "retain_icl"


PERCENT = 100.0


@metrics.register("neighbour_retention")
class NeighbourRetention(Neighbours):
    """100 x the knowledge of the neighbours over the retrained model's, on the same questions.

    The retrained model learnt the neighbours and not the forget set, so what it knows of them is what
    forgetting may leave. Above 100 the model knows more than that.
    """

    title: ClassVar[str] = "Retention of the neighbours"
    definition: ClassVar[str] = "knowledge of the neighbours in percent of the retrained model's"
    scale: ClassVar[str] = "percent, 100 is best"
    needs_control: ClassVar[bool] = True
    supports_retention: ClassVar[bool] = False
    default: ClassVar[bool] = False
    caveats: ClassVar[str] = (
        "A mean: it hides that some neighbours may be gone altogether, which the single scores show. A "
        "weak retrained model makes every other look good."
    )

    def statistic(self, values: Values, weights: Weights, control: Values | None = None) -> Floats:
        """The share of each resample, in percent; NaN or infinite where the control knows nothing."""
        if control is None:
            raise LookupError("retention compares with a retrained model and was given none")
        own_R, retrained_R = super().statistic(values, weights), super().statistic(control, weights)
        with np.errstate(divide="ignore", invalid="ignore"):
            share_R: Floats = PERCENT * own_R / retrained_R
        return share_R


@metrics.register("paraphrase_retention")
class ParaphraseRetention(_Questions):
    """100 x the knowledge of the forget set asked in other words over that asked in the known words.

    Both are ROUGE-L of greedy answers after solved questions, of one model. Questions of the two splits
    need not be paired.
    """

    title: ClassVar[str] = "Retention under paraphrase"
    role: ClassVar[MetricRole] = MetricRole.PARAPHRASE
    definition: ClassVar[str] = (
        "what is known in other words, in percent of what is known in the known words"
    )
    source: ClassVar[str] = "MUSE (arXiv 2407.06460): KnowMem, on both phrasings"
    scale: ClassVar[str] = "percent"
    lower_is_better: ClassVar[bool | None] = None
    supports_retention: ClassVar[bool] = False
    needs_splits: ClassVar[tuple[str, ...]] = ("forget", "paraphrase_questions")
    default: ClassVar[bool] = False
    caveats: ClassVar[str] = (
        "A share of little is noise: where the known words give nothing, common words decide. Above 100 "
        "after unlearning means that the wording was forgotten and the fact was not."
    )

    def prefetch(self, observed: Observer, probes: Probes) -> None:
        """Other metrics' questions are answered in the same batches."""
        for metric in self._both:
            metric.prefetch(observed, probes)

    def measure(self, observed: Observer, probes: Probes) -> Measured:
        """Ask in both ways; what other metrics asked is not asked again."""
        for split in self.needs_splits:
            if not probes.questions(split):
                return not_applicable(split, f"the {split} split has no questions")
        known, otherwise = (metric.measure(observed, probes) for metric in self._both)
        return {**known, **otherwise}

    @property
    def _both(self) -> tuple[KnowMem, KnowMem]:
        settings = self.model_dump(include=set(KnowMem.model_fields))
        return KnowMemForget.model_validate(settings), ParaphraseQuestions.model_validate(settings)

    def statistic(self, values: Values, weights: Weights, control: Values | None = None) -> Floats:  # noqa: ARG002
        """The share of each resample, in percent; NaN or infinite where the known words give nothing."""
        known_R, otherwise_R = (
            weights[split] @ values[split] / weights[split].sum(axis=1) for split in self.needs_splits
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            share_R: Floats = PERCENT * otherwise_R / known_R
        return share_R
