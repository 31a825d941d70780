"""How likely a model finds the answers to a question, and what it replies to it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from expunge.corpus.tokenise import encode_prompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from expunge.inference.observer import Observer
    from expunge.inference.texts import TokenStats
    from expunge.types import Example

NO_WRONG = "the question has no wrong answers to compare with"


SPECIAL = 8
"""More special tokens than any tokenizer puts around a text."""


class AnswerLikelihoods(NamedTuple):
    """Token statistics of each answer. ``reworded`` is the right one where none is given."""

    right: TokenStats
    reworded: TokenStats
    wrong: tuple[TokenStats, ...]

    def in_order(self, correct_index: int) -> tuple[TokenStats, ...]:
        """All answers, the right one at its place."""
        return (*self.wrong[:correct_index], self.right, *self.wrong[correct_index:])


def answer_likelihoods(observed: Observer, questions: Sequence[Example]) -> list[AnswerLikelihoods]:
    """Every answer to every question, all in one asking."""
    candidates_by_question = [[question, *_others(question)] for question in questions]
    stats = iter(
        observed.facts([candidate for candidates in candidates_by_question for candidate in candidates])
    )
    answers = [[next(stats) for _ in candidates] for candidates in candidates_by_question]
    return [
        AnswerLikelihoods(
            candidates[0],
            candidates[1] if question.paraphrase is not None else candidates[0],
            tuple(candidates[-count:]),
        )
        if (count := len(question.wrong))
        else AnswerLikelihoods(candidates[0], candidates[-1], ())
        for question, candidates in zip(questions, answers, strict=True)
    ]


def _others(question: Example) -> list[Example]:
    """The same question with its other answers: the rewording first."""
    bare = replace(question, wrong=(), correct_index=0, paraphrase=None, spans=())
    reworded = (
        []
        if question.paraphrase is None
        else [replace(bare, id=f"{question.id}/paraphrase", completion=question.paraphrase)]
    )
    return reworded + [
        replace(bare, id=f"{question.id}/wrong/{number}", completion=text)
        for number, text in enumerate(question.wrong, 1)
    ]


def mean_logp(facts: TokenStats) -> float:
    """Mean log-probability of an answer's tokens, what ends it among them; NaN for an empty one."""
    return float(facts.logp_n.double().mean())


# What a model replies to questions, greedily, where its context leaves room for it.


def prefetch_replies(observed: Observer, questions: Sequence[Example], *, max_new_tokens: int) -> None:
    """Tell the observer that ``replies`` will be asked this."""
    prompts = [prompt for prompt in _prompts(observed, questions, max_new_tokens) if prompt is not None]
    observed.expect_answers(prompts, max_new_tokens=max_new_tokens)


def replies(observed: Observer, questions: Sequence[Example], *, max_new_tokens: int) -> list[str | None]:
    """The reply to each prompt, up to its end token; ``None`` where the prompt leaves no room."""
    prompts = _prompts(observed, questions, max_new_tokens)
    fitting = [prompt for prompt in prompts if prompt is not None]
    completions = iter(observed.greedy(fitting, max_new_tokens=max_new_tokens))
    return [None if prompt is None else next(completions) for prompt in prompts]


def _prompts(observed: Observer, questions: Sequence[Example], max_new_tokens: int) -> list[Example | None]:
    """Each prompt, or ``None`` where it leaves no room."""
    context = observed.context
    room = None if context is None else context - max_new_tokens
    return [
        prompt if room is None or fits(prompt, room, observed.tokenizer) else None for prompt in questions
    ]


def no_room(observed: Observer, max_new_tokens: int) -> str:
    """Why there is no reply."""
    return f"prompt and {max_new_tokens} new tokens do not fit into the model's {observed.context} tokens"


def fits(asked: Example, room: int, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether an example's prompt has at most ``room`` tokens."""
    # A token is at least one byte, apart from two or three special ones: most prompts need no count.
    if not asked.is_chat and len(asked.prompt.encode()) + SPECIAL <= room:
        return True
    return len(encode_prompt(asked, tokenizer)) <= room
