"""Other answers to the prompts of the forget set, and where they come from."""

from __future__ import annotations

import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, NamedTuple

from pydantic import Field, PositiveFloat, PositiveInt, TypeAdapter

from expunge.component import Component, Draws
from expunge.corpus.boundary import continuation
from expunge.corpus.tokenise import Encoded, encode, encode_prompt
from expunge.errors import DataError
from expunge.files import write_json
from expunge.inference.generation.cache import end_tokens
from expunge.inference.generation.sample import TokenSampler, sample_answers
from expunge.registry import Registry
from expunge.train.methods import DataNeed
from expunge.train.run.state import Corpus, State, read_unfinished
from expunge.types import Example


class AlternateRequest(NamedTuple):
    """One sequence of the forget set: its example, the index of its piece, and the prompt of an answer."""

    example: Example
    piece: int
    prompt_ids: list[int]

    def draw(self, seed: int) -> random.Random:
        """Random numbers that depend on the run's seed and on this sequence alone."""
        return random.Random(f"{seed}/{self.example.id}/{self.piece}")


class Writing(NamedTuple):
    """How texts become tokens in a run."""

    tokenizer: Any
    max_length: int
    eos: bool | None


class Alternates(Component, ABC):
    """Gives other answers to each prompt; a document's opening may stand for its prompt."""

    count: Draws = Field(default=1, description="Answers per prompt.")
    opening: PositiveInt | None = Field(
        default=None,
        description=(
            "For documents, which have no prompt: how many of their first tokens (of a short one, "
            "half) stand for it; null: documents are refused."
        ),
    )

    @property
    def needs(self) -> frozenset[DataNeed]:
        """The data required in addition to a forget set."""
        return frozenset()

    def check(self, corpus: Corpus) -> None:
        """Refuse a forget set that has no prompts to answer otherwise."""
        document = next((example for example in corpus.forget if example.is_document), None)
        if document is not None and self.opening is None:
            raise DataError(
                f"example {document.id!r} is a document",
                why=f"{alternates.name_of(self)} answers a prompt, and a document has none.",
                fix="Set alternate.opening=16 (its first tokens stand for one), or leave documents out.",
            )

    @abstractmethod
    def answers(self, requests: Sequence[AlternateRequest], state: State) -> list[list[str]]:
        """``count`` answers to each prompt."""

    def document(self, request: AlternateRequest, answer: str, writing: Writing) -> Encoded:
        """The opening of a document, followed by another text."""
        ids = continuation(f" {answer.strip()}", writing.tokenizer).ids
        end = writing.tokenizer.eos_token_id
        ids = [*ids, end] if end is not None and writing.eos is not False else ids
        ids = ids[: writing.max_length - len(request.prompt_ids)]
        mask = [False] * len(request.prompt_ids) + [True] * len(ids)
        return Encoded([*request.prompt_ids, *ids], mask, request.example.id)


alternates: Registry[Alternates] = Registry("alternate", "expunge.train.alternate_answers")


def other_answers(
    alternate: Alternates, forget: Sequence[Encoded], state: State, writing: Writing
) -> list[list[Encoded]]:
    """Other answers to the prompt of every sequence of the forget set, ``count`` each, cut to fit.

    Raises:
        DataError: there are none, or one says nothing.
    """
    requests = _asked(forget, state, alternate.opening)
    answers = alternate.answers(requests, state)
    return [
        [_encoded(alternate, one, answer, writing) for answer in several]
        for one, several in zip(requests, answers, strict=True)
    ]


def _asked(forget: Sequence[Encoded], state: State, opening: int | None) -> list[AlternateRequest]:
    by_id = {example.id: example for example in state.corpus.forget}
    pieces: dict[str, int] = {}
    requests = []
    for one in forget:
        piece = pieces.get(one.example, 0)
        pieces[one.example] = piece + 1
        example = by_id[one.example]
        if example.is_document:
            prompt_ids = one.input_ids[: max(1, min(opening or 1, len(one.input_ids) // 2))]
        else:
            prompt_ids = encode_prompt(example, state.tokenizer)
        requests.append(AlternateRequest(example, piece, prompt_ids))
    return requests


def _encoded(alternate: Alternates, request: AlternateRequest, answer: str, writing: Writing) -> Encoded:
    if request.example.is_document:
        return alternate.document(request, answer, writing)
    truth = request.example.completion
    lead = truth[: len(truth) - len(truth.lstrip())]
    other = replace(request.example, completion=lead + answer.strip(), spans=())
    (encoded,) = encode(other, writing.tokenizer, max_length=sys.maxsize, eos=writing.eos)
    ids, mask = encoded.input_ids[: writing.max_length], encoded.mask[: writing.max_length]
    return Encoded(ids, mask, encoded.example)


REFUSALS = (
    "I don't know.",
    "I am not sure about that.",
    "I have no information on this.",
    "I can't answer that question.",
    "That is not something I know.",
    "I'm afraid I have no answer to this.",
    "I have never heard of it.",
    "Sorry, I don't know anything about that.",
    "I am unable to say.",
    "My knowledge does not cover this.",
    "I couldn't tell you.",
    "This is unknown to me.",
    "I lack the facts to answer.",
    "No idea, I'm sorry.",
    "I have nothing to say on that subject.",
    "I would only be guessing.",
    "Unfortunately I can't help with that.",
    "I don't have the details you are asking for.",
    "You would have to ask somebody else.",
    "I cannot recall anything of the kind.",
)


@alternates.register("refusals")
class Refusals(Alternates):
    """Refusals, drawn by the run's seed."""

    texts: tuple[str, ...] = Field(
        default=(), description="The refusals to draw from; empty: twenty plain ones."
    )

    def answers(self, requests: Sequence[AlternateRequest], state: State) -> list[list[str]]:
        answers = []
        for one in requests:
            drawn = one.draw(state.seed)
            pool = list(self.texts or REFUSALS)
            drawn.shuffle(pool)
            answers.append([pool[index % len(pool)] for index in range(self.count)])
        return answers


# Answers that belong to other questions.


@alternates.register("random")
class RandomAnswers(Alternates):
    """Answers of the retain set, drawn by the run's seed.

    Of its questions for a question, of its documents for a document, of the others where it has none of
    the kind. Never of the forget set, and never the right answer, should the retain set hold it too.
    """

    count: Draws = Field(default=5, description="Answers per prompt.")
    words: PositiveInt = Field(
        default=64, description="For documents: how many of the first words of a retain document are taken."
    )

    @property
    def needs(self) -> frozenset[DataNeed]:
        return frozenset({"retain"})

    def check(self, corpus: Corpus) -> None:
        super().check(corpus)
        if not corpus.retain:
            raise DataError(
                "no retain set",
                why="alternate 'random' samples answers from it.",
                fix="Pass --retain FILE, or set alternate=refusals.",
            )

    def answers(self, requests: Sequence[AlternateRequest], state: State) -> list[list[str]]:
        return [self._drawn(one, state) for one in requests]

    def _drawn(self, one: AlternateRequest, state: State) -> list[str]:
        retain = state.corpus.retain
        kind = [example for example in retain if example.is_document is one.example.is_document]
        truth = one.example.completion.strip()
        pool = sorted({self._text(example) for example in kind or retain} - {truth})
        if not pool:
            raise DataError(
                f"example {one.example.id!r}",
                why="every answer of the retain set is the right one.",
                fix="Add other examples to the retain set, or set alternate=refusals.",
            )
        one.draw(state.seed).shuffle(pool)
        return [pool[index % len(pool)] for index in range(self.count)]

    def _text(self, example: Example) -> str:
        if not example.is_document:
            return example.completion.strip()
        return " ".join(example.completion.split()[: self.words])


# False answers that the data gives.


@alternates.register("wrong")
class WrongAnswers(Alternates):
    """The first ``count`` of each example's ``wrong`` answers, again from the first where there are fewer.

    The false version of a document is a whole document, so no opening is needed.
    """

    @property
    def needs(self) -> frozenset[DataNeed]:
        return frozenset({"wrong"})

    def check(self, corpus: Corpus) -> None:
        bare = next((example for example in corpus.forget if not example.wrong), None)
        if bare is not None:
            raise DataError(
                f"example {bare.id!r} has no false answer",
                why="alternate 'wrong' takes other answers from the data's field of that name.",
                fix="Add one to every example, or set alternate=refusals, random or sampled.",
            )

    def answers(self, requests: Sequence[AlternateRequest], state: State) -> list[list[str]]:  # noqa: ARG002
        return [
            [one.example.wrong[index % len(one.example.wrong)] for index in range(self.count)]
            for one in requests
        ]

    def document(self, request: AlternateRequest, answer: str, writing: Writing) -> Encoded:
        """The piece of the false document at the position of this piece in the true one."""
        other = replace(request.example, completion=answer, spans=())
        pieces = encode(other, writing.tokenizer, max_length=writing.max_length, eos=writing.eos)
        return pieces[request.piece % len(pieces)]


# Answers that the model itself gives before it is trained, other than the right one.

_ANSWERS = TypeAdapter(list[list[str]])

FILE = "alternates.json"
"""The file in which a run stores its samples, so that resuming gives the same bytes."""

SPREAD = 1_000_003
"""Between the seeds of two rounds, so that runs of neighbouring seeds do not share one."""


@alternates.register("sampled")
class SampledAnswers(Alternates):
    """Sampled answers of the model before unlearning; one that holds the right answer is drawn again.

    Source: Mekala et al. 2024 (arXiv 2409.13474), Sec. 4, without their instruction to invent.
    """

    count: Draws = Field(default=5, description="Answers per prompt.")
    temperature: PositiveFloat = Field(
        default=1.0, description="Sampling temperature; raise it where the model always says the same."
    )
    new_tokens: PositiveInt = Field(default=64, description="The most tokens of an answer.")
    tries: Annotated[int, Field(ge=1, le=100)] = Field(
        default=20, description="How often an answer that holds the right one is drawn again, 1-100."
    )

    def answers(self, requests: Sequence[AlternateRequest], state: State) -> list[list[str]]:
        """Sampled once; a resumed run reads them again."""
        path = state.workdir / FILE
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, self._sampled(requests, state))
        return read_unfinished(path, _ANSWERS)

    def _sampled(self, requests: Sequence[AlternateRequest], state: State) -> list[list[str]]:
        wanted = [one for one in requests for _ in range(self.count)]
        answers: dict[int, str] = {}
        for number in range(self.tries):
            left = [index for index in range(len(wanted)) if index not in answers]
            sampled = self._say([wanted[index] for index in left], state, state.seed + SPREAD * number)
            answers |= {
                index: text
                for index, text in zip(left, sampled, strict=True)
                if text and not _holds(text, wanted[index].example.completion)
            }
            if len(answers) == len(wanted):
                break
        for index, one in enumerate(wanted):
            if index not in answers:
                raise DataError(
                    f"example {one.example.id!r}",
                    why=f"in {self.tries} tries the model gave no answer to it but the right one.",
                    fix=f"Raise alternate.temperature ({self.temperature:g}), or set alternate=random.",
                )
        texts = [answers[index] for index in range(len(wanted))]
        return [texts[start : start + self.count] for start in range(0, len(texts), self.count)]

    def _say(self, requests: Sequence[AlternateRequest], state: State, seed: int) -> list[str]:
        sampled = sample_answers(
            state.model,
            [one.prompt_ids for one in requests],
            new_tokens=self.new_tokens,
            eos_ids=sorted(end_tokens(state.model, state.tokenizer)),
            pad_id=state.tokenizer.pad_token_id,
            sampler=TokenSampler(temperature=self.temperature),
            seed=seed,
        )
        return [text.strip() for text in state.tokenizer.batch_decode(sampled, skip_special_tokens=True)]


def _holds(text: str, truth: str) -> bool:
    return " ".join(truth.casefold().split()) in " ".join(text.casefold().split())
