"""Answers that the model itself gives before it is trained, other than the right one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, TypeAdapter

from expunge.errors import DataError
from expunge.files import write_json
from expunge.score.said import end_tokens
from expunge.score.sample import sample_answers
from expunge.train.alternates import Alternates, Asked, alternates
from expunge.train.state import State
from expunge.train.unfinished import read_unfinished

_ANSWERS = TypeAdapter(list[list[str]])

FILE = "alternates.json"
"""Where a run keeps what was sampled, so that going on gives the same bytes."""

SPREAD = 1_000_003
"""Between the seeds of two rounds, so that runs of neighbouring seeds do not share one."""


@alternates.register("sampled")
class SampledAnswers(Alternates):
    """``count`` answers of the model before unlearning, at ``temperature``.

    An answer that holds the right one is drawn again, up to ``tries`` times: what a model knows by heart
    it says again and again, and a high temperature helps.

    Source: Mekala et al. 2024 (arXiv 2409.13474), Sec. 4, without their instruction to invent.
    """

    count: PositiveInt = 5
    temperature: PositiveFloat = 1.0
    new_tokens: PositiveInt = 64
    tries: Annotated[int, Field(ge=1, le=100)] = 20

    def answers(self, asked: Sequence[Asked], state: State) -> list[list[str]]:
        """Sampled once; a run that goes on reads them again."""
        path = state.workdir / FILE
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, self._sampled(asked, state))
        return read_unfinished(path, _ANSWERS)

    def _sampled(self, asked: Sequence[Asked], state: State) -> list[list[str]]:
        wanted = [one for one in asked for _ in range(self.count)]
        found: dict[int, str] = {}
        for number in range(self.tries):
            left = [place for place in range(len(wanted)) if place not in found]
            said = self._say([wanted[place] for place in left], state, state.seed + SPREAD * number)
            found |= {
                place: text
                for place, text in zip(left, said, strict=True)
                if text and not _holds(text, wanted[place].example.completion)
            }
            if len(found) == len(wanted):
                break
        for place, one in enumerate(wanted):
            if place not in found:
                raise DataError(
                    f"example {one.example.id!r}",
                    why=f"in {self.tries} tries the model gave no answer to it but the right one.",
                    fix=f"Raise alternate.temperature ({self.temperature:g}), or set alternate=random.",
                )
        texts = [found[place] for place in range(len(wanted))]
        return [texts[start : start + self.count] for start in range(0, len(texts), self.count)]

    def _say(self, asked: Sequence[Asked], state: State, seed: int) -> list[str]:
        said = sample_answers(
            state.model,
            [one.prompt_ids for one in asked],
            new_tokens=self.new_tokens,
            eos_ids=sorted(end_tokens(state.model, state.tokenizer)),
            pad_id=state.tokenizer.pad_token_id,
            temperature=self.temperature,
            seed=seed,
        )
        return [text.strip() for text in state.tokenizer.batch_decode(said, skip_special_tokens=True)]


def _holds(text: str, truth: str) -> bool:
    return " ".join(truth.casefold().split()) in " ".join(text.casefold().split())
