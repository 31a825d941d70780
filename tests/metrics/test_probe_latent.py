from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from expunge.inference.observer import Observer
from expunge.metrics.probe_latent import NOT_ANSWERED, NOT_ASKED, LatentProbe, LatentSelectivity
from expunge.metrics.probes import Probes
from expunge.types import Example
from tests.metrics.fakes import FakeObserver
from tests.scope.people import FORGET, RETAIN, TOKENIZER, question
from tests.tiny import BYTES_VOCAB, tiny

PROBES = Probes(forget=FORGET, retain=RETAIN)


def observer(*, deaf: bool = False) -> Any:
    """A random model; a deaf one brings nothing from one token to the next."""
    model = tiny("llama", vocab_size=BYTES_VOCAB)
    for block in model.model.layers if deaf else ():
        block.self_attn.o_proj.weight.data.zero_()
    return FakeObserver(model=model, tokenizer=TOKENIZER)


def values(metric: LatentProbe, probes: Probes = PROBES, **settings: bool) -> dict[str, Any]:
    (scores,) = metric.measure(observer(**settings), probes).values()
    return {score.item: score.value if score.unscored is None else score.unscored for score in scores}


SUBJECT = LatentProbe(at="subject")


def test_what_the_states_hold_is_read_and_what_they_do_not_is_not() -> None:
    assert values(SUBJECT) == {each.id: 1.0 for each in FORGET}
    deaf = values(SUBJECT, deaf=True)
    answers = {each.id: each.completion for each in FORGET}
    said = {answers[name] for name, right in deaf.items() if right}
    assert len(said) <= 1  # every subject looks alike, so all are told the same


def test_above_chance_is_less_what_shuffled_answers_give() -> None:
    above = values(LatentSelectivity(at="subject"))
    assert {round(5 * (1 - value)) for value in above.values()} <= set(range(6))
    assert 0.3 < sum(above.values()) / len(above) < 1


def test_the_forget_set_is_asked_and_never_fitted_on() -> None:
    """Wrong answers in the forget set change its scores and nothing of the probes."""
    turned = {" goat": " cat", " cat": " owl", " owl": " goat"}
    other = tuple(replace(each, completion=turned[each.completion]) for each in FORGET)
    assert values(SUBJECT, Probes(forget=other, retain=RETAIN)) == {each.id: 0.0 for each in FORGET}


def test_what_no_probe_was_fitted_for_is_not_scored() -> None:
    forget = (
        question("Ada Poe"),
        question("Eve Poe"),
        Example(id="else", prompt="Where is Ada Poe?\nAnswer:", completion=" goat", group="Ada Poe"),
        Example(id="text", completion="Ada Poe has a goat."),
    )
    assert values(SUBJECT, Probes(forget=forget, retain=RETAIN)) == {
        "Ada Poe": 1.0,
        "Eve Poe": NOT_ANSWERED,
        "else": NOT_ASKED,
    }
    few = Probes(forget=FORGET, retain=RETAIN[:4])
    assert values(LatentProbe(), few) == {"(none)": NOT_ASKED}
    assert values(LatentProbe(), Probes(forget=forget[3:], retain=RETAIN)) == {
        "(none)": "the forget split has no questions"
    }


def test_both_metrics_fit_their_probes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = []
    ask = LatentProbe._ask
    monkeypatch.setattr(LatentProbe, "_ask", lambda *what: (fitted.append(1), ask(*what))[1])
    model = tiny("llama", vocab_size=BYTES_VOCAB)
    for observed, times in ((observer(), 2), (Observer(model, TOKENIZER, max_length=64), 1)):
        fitted.clear()
        for metric in (SUBJECT, LatentSelectivity(at="subject")):
            metric.measure(observed, PROBES)
        assert len(fitted) == times
