"""What a report shows of an item: what was asked, the right answer and what the model said."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from expunge.inference.observer import Observer
from expunge.metrics import metrics
from expunge.metrics.probes import Probes
from expunge.types import Example
from tests.metrics.fakes import document, question
from tests.tiny import tiny, tiny_tokenizer

TEXT = "the rain in the town is on and on and the men went out in it again "
ASKED = (document("d", TEXT * 3), question("q", "where?", "in the town"))
PROBES = Probes(forget=ASKED, holdout=ASKED, retain=ASKED, neighbours=ASKED, paraphrase_questions=ASKED)


class Listening(Observer):
    """Says whether anything was generated for its text."""

    generated = False

    def greedy(
        self, prompts: Sequence[str | Example], *, max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[str]:
        self.generated = True
        return super().greedy(prompts, max_new_tokens=max_new_tokens, stop=stop)


@pytest.mark.parametrize("name", [*metrics])
def test_what_the_model_said_stands_beside_the_prompt_and_the_truth(name: str) -> None:
    observer = Listening(tiny("llama"), tiny_tokenizer(), max_length=256)
    measured = metrics.build(name).measure(observer, PROBES)
    assert observer.generated or name not in ("verbmem", "knowmem_forget", "utility")
    scored = [score for scores in measured.values() for score in scores if score.value is not None]
    for score in scored if observer.generated else ():
        assert {"truth", "said"} <= score.detail.keys()
        assert score.detail.keys() & {"prompt", "question"}
    assert all(isinstance(text, str) for score in scored for text in score.detail.values())
