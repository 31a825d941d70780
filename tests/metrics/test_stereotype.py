from __future__ import annotations

import pytest
import torch

from expunge.corpus.pairs import BLANK
from expunge.inference.observer import Observer
from expunge.metrics.answers import NO_WRONG
from expunge.metrics.probes import Probes
from expunge.metrics.stereotype import TIE, LanguageModelingScore, Stereotype
from expunge.types import Example, Score
from tests.masked import FAMILIES, tiny_masked, word_tokenizer
from tests.metrics.fakes import FakeObserver, facts_of


def scores(
    *sets: list[list[float]], metric: type[Stereotype] | type[LanguageModelingScore], per: str
) -> list[Score]:
    """Each set: the log-probabilities of the tokens of its two or three sentences."""
    examples, known = [], {}
    for number, answers in enumerate(sets):
        name = f"s{number}"
        wrong = tuple(f" {'x' * len(each)}" for each in answers[1:])
        examples.append(Example(id=name, prompt="The smith was", completion=" xx", wrong=wrong))
        known |= {
            name if place == 0 else f"{name}/wrong/{place}": facts_of(logps=own)
            for place, own in enumerate(answers)
        }
    found = metric(per=per).measure(  # type: ignore[arg-type]
        FakeObserver(known=known),  # type: ignore[arg-type]
        Probes(forget=(), choices=tuple(examples)),
    )
    return found["choices"]


def test_which_sentence_is_likelier_by_hand() -> None:
    sets = [[-1.0], [-2.0]], [[-3.0], [-2.0]], [[-1.0], [-1.0]]
    first, second, tie = scores(*sets, metric=Stereotype, per="answer")
    assert (first.value, second.value) == (1.0, 0.0)
    assert (tie.value, tie.unscored) == (None, TIE)


@pytest.mark.parametrize(("per", "expected"), [("token", 1.0), ("answer", 0.0)])
def test_a_longer_sentence_is_judged_by_token_or_whole(per: str, expected: float) -> None:
    (score,) = scores([[-1.0, -1.0, -1.0], [-2.0]], metric=Stereotype, per=per)
    assert score.value == expected


def test_sense_against_nonsense_by_hand() -> None:
    sets = [[-1.0], [-2.0], [-3.0]], [[-1.0], [-4.0], [-3.0]], [[-5.0], [-4.0], [-3.0]], [[-1.0], [-2.0]]
    found = scores(*sets, metric=LanguageModelingScore, per="token")
    assert [score.value for score in found] == [1.0, 0.5, 0.0, None]
    assert "wrong answers" in (found[-1].unscored or "")


SETS = (
    Example(id="a", prompt="the nurse said that", completion=" she ran", wrong=(" he ran", " tree ran")),
    Example(id="b", prompt="the smith was", completion=" kind", wrong=(" brave", " it it")),
    Example(id="c", prompt="the smith was", completion=" kind .", wrong=(" brave",)),
)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_masked_model_is_asked_for_the_one_token_that_differs(family: str) -> None:
    model, tokenizer = tiny_masked(family), word_tokenizer()
    observer = Observer(model, tokenizer, max_length=24)
    probes = Probes(forget=(), choices=SETS)
    first, second, third = Stereotype().measure(observer, probes)["choices"]

    def logits(text: str, *words: str) -> list[float]:
        inputs = tokenizer(text, return_tensors="pt")
        (place,) = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0].tolist()
        with torch.inference_mode():
            found = model(inputs["input_ids"]).logits[0, place]
        return [float(found[tokenizer.convert_tokens_to_ids(word)]) for word in words]

    she, he, tree = logits("the nurse said that [MASK] ran", "she", "he", "tree")
    kind, brave = logits("the smith was [MASK]", "kind", "brave")
    assert (first.value, second.value) == (float(she > he), float(kind > brave))
    assert (third.value, third.unscored) == (None, BLANK)
    sense = LanguageModelingScore().measure(observer, probes)["choices"]
    assert sense[0].value == ((she > tree) + (he > tree)) / 2
    assert [score.unscored for score in sense[1:]] == [BLANK, NO_WRONG]
