"""Metrics of answers on random models and ragged batches, against formulas written without the package."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import gmean

from expunge.inference.observer import Observer
from expunge.metrics import metrics
from expunge.metrics.model_utility import COMPONENTS
from expunge.metrics.probes import Probes
from expunge.types import Example
from tests.metrics.test_parity import BOS, DTYPES, EOS, TOKENIZER, Read, half_trained

ASKED = tuple(
    Example(
        id=f"q{n}",
        prompt=f"Question: {q}?\nAnswer: ",
        completion=a,
        wrong=wrong,
        correct_index=n % 3,
        paraphrase=other,
    )
    for n, (q, a, wrong, other) in enumerate(
        [
            ("who", "the men", ("the others", "nobody at all, in the rain", "42"), "it was the men"),
            (
                "where on earth was that",
                "in the town",
                ("on the hill again", "at sea"),
                "the town it was in",
            ),
            ("when", "again and again, on and on", ("never", "once", "the wind was on the hill"), None),
        ]
    )
)
PROBES = Probes(
    forget=ASKED, retain=ASKED, choices=ASKED, ability=ASKED, real_authors=ASKED, world_facts=ASKED[::-1]
)


@pytest.fixture(scope="module", params=[(arch, kind) for arch in ("llama", "gpt2") for kind in DTYPES])
def model(request: pytest.FixtureRequest) -> Any:
    arch, kind = request.param
    return half_trained(arch).to(DTYPES[kind])


def observer(model: Any) -> Observer:
    # In bf16 kernels round by shape, so there each text is its own batch; in fp32 all are one.
    return Observer(
        model, TOKENIZER, max_length=256, batch_tokens=8192 if model.dtype == torch.float32 else 1
    )


def read(model: Any, asked: Example, answer: str) -> Read:
    return Read(model, replace(asked, completion=answer))


def p(model: Any, asked: Example, answer: str) -> float:
    return math.exp(read(model, asked, answer).own.mean())


def ratio(model: Any, asked: Example, mean: Callable[[list[float]], float] = gmean) -> float:
    return mean([p(model, asked, wrong) for wrong in asked.wrong]) / (
        p(model, asked, asked.paraphrase or asked.completion) + 1e-10
    )


def among(model: Any, asked: Example) -> float:
    every = [p(model, asked, answer) for answer in (asked.completion, *asked.wrong)]
    return every[0] / (sum(every) + 1e-10)


def best(model: Any, asked: Example, weigh: Callable[[Read], float]) -> float:
    order = list(asked.wrong)
    order.insert(asked.correct_index, asked.completion)
    weights = [weigh(read(model, asked, answer)) for answer in order]
    return float(weights.index(max(weights)) == asked.correct_index)


def words(each: Read) -> torch.Tensor:
    return each.own[: len(each.inside)]


def arithmetic(values: list[float]) -> float:
    return sum(values) / len(values)


def closer(found: float) -> float:
    return min(found, 1 / (found + 1e-10))


FORMULAS: dict[str, Callable[[Any, Example], float]] = {
    "truth_ratio": lambda m, q: closer(ratio(m, q)),
    "truth_ratio:mean=arithmetic": lambda m, q: closer(ratio(m, q, arithmetic)),
    "truth_ratio_retain": lambda m, q: max(0.0, 1 - ratio(m, q)),
    "forget_quality": ratio,
    "real_authors": among,
    "world_facts": among,
    "multiple_choice": lambda m, q: best(m, q, lambda each: float(words(each).sum())),
    "ability:per=token": lambda m, q: best(m, q, lambda each: float(words(each).mean())),
    "ability:per=character": lambda m, q: best(
        m, q, lambda each: float(words(each).sum()) / len(each.text)
    ),
    "candidate_accuracy": lambda m, q: best(m, q, lambda each: float(words(each).mean())),
    "full_vocabulary_accuracy": lambda m, q: float(all(read(m, q, q.completion).right[:-1])),
    "lpd": lambda m, q: 1 / p(m, q, q.completion),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_every_question(model: Any, name: str) -> None:
    name, _, setting = name.partition(":")
    field, _, value = setting.partition("=")
    metric = metrics.build({"name": name, **({field: value} if field else {})})
    (scores,) = metric.measure(observer(model), PROBES).values()
    asked = PROBES.world_facts if name == "world_facts" else ASKED
    formula = FORMULAS[f"{name}:{setting}" if setting else name]
    expected = [formula(model, question) for question in asked]
    assert [score.value for score in scores] == pytest.approx(expected, rel=1e-6, abs=1e-6)


def greedy(model: Any, prompt: str, tokens: int) -> str:
    ids = [BOS, *TOKENIZER.encode(prompt, add_special_tokens=False)]
    start = len(ids)
    with torch.no_grad():
        for _ in range(tokens):
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if token == EOS:
                break
            ids.append(token)
    return TOKENIZER.decode(ids[start:], skip_special_tokens=True)


def test_the_nine_components(model: Any) -> None:
    metric = metrics.build({"name": "model_utility", "max_new_tokens": 20})
    found = metric.measure(observer(model), PROBES)
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    expected = {
        "probability": {
            "retain": [p(model, q, q.completion) for q in ASKED],
            "real_authors": [among(model, q) for q in ASKED],
            "world_facts": [among(model, q) for q in ASKED[::-1]],
        },
        "truth_ratio": {
            name: [max(0.0, 1 - ratio(model, q)) for q in PROBES.split(name)]
            for name in ("retain", "real_authors", "world_facts")
        },
        "rouge": {
            name: [
                scorer.score(q.completion, greedy(model, q.prompt, 20))["rougeL"].recall
                for q in PROBES.split(name)
            ]
            for name in ("retain", "real_authors", "world_facts")
        },
    }
    means = []
    for component in COMPONENTS:
        name, _, part = component.partition("/")
        values = expected[part][name]
        assert [score.value for score in found[component]] == pytest.approx(values, rel=1e-6, abs=1e-6)
        means.append(arithmetic(values))
    utility = 9 / sum(1 / each for each in means) if all(means) else 0.0
    assert metric.point_estimate(found) == pytest.approx(utility, rel=1e-6, abs=1e-6)


def test_what_is_asked_by_several_is_read_once(model: Any) -> None:
    class Counting(Observer):
        asked = 0

        def _texts(self, examples: Any) -> Any:
            self.asked += len(examples)
            return super()._texts(examples)

    seer = Counting(model, TOKENIZER, max_length=256)
    texts = {(q.prompt, text) for q in ASKED for text in (q.completion, q.paraphrase, *q.wrong) if text}
    for name in ("truth_ratio", "forget_quality", "multiple_choice", "candidate_accuracy", "probability"):
        metrics.build({"name": name}).measure(seer, PROBES)
    assert seer.asked == len(texts)
