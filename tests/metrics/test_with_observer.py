"""Metrics on a real (tiny) model through the real observer."""

from __future__ import annotations

import pytest
import torch

from expunge.inference.observer import Observer
from expunge.metrics import metrics
from expunge.metrics.probes import Probes
from expunge.types import Example
from tests.metrics.fakes import document, question
from tests.tiny import tiny, tiny_tokenizer

TEXT = "the rain in the town is on and on and the men went out in it again "
PROBES = Probes(
    forget=(document("d", TEXT * 3), question("q", "where?", "in the town")),
    holdout=(document("h", "nobody has read this text before, not even once"),),
    retain=(question("r", "who?", "the men"),),
    retain_icl=(question("i", "what?", "the rain"),),
)


@pytest.fixture(scope="module")
def observer() -> Observer:
    return Observer(tiny("llama"), tiny_tokenizer(), max_length=256)


def test_every_metric_gives_a_score_or_a_reason(observer: Observer) -> None:
    for name in metrics:
        measured = metrics.build({"name": name}).measure(observer, PROBES)
        for scores in measured.values():
            assert scores
            assert all((score.value is None) == bool(score.unscored) for score in scores)


@torch.no_grad()
def test_min_k_is_that_of_the_models_own_log_probabilities(observer: Observer) -> None:
    ids = observer.tokenizer(TEXT * 3, return_tensors="pt").input_ids
    logps = observer.model(ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
    lowest = sorted(logps.tolist())[: int(len(logps) * 0.4)]
    (score,) = metrics.build({"name": "auc"}).measure(observer, PROBES)["forget"]
    assert score.value == pytest.approx(-sum(lowest) / len(lowest), rel=1e-5)


def test_what_a_model_says_itself_is_verbatim_memory(observer: Observer) -> None:
    # A document that is a prompt and the model's own continuation of it is remembered word for word.
    prompt = TEXT * 2
    (said,) = observer.greedy([prompt], max_new_tokens=40)
    verbmem = metrics.build(
        {"name": "verbmem", "prompt_tokens": len(observer.tokenizer(prompt).input_ids) - 1}
    )
    (score,) = verbmem.measure(observer, Probes(forget=(document("own", prompt + said),)))["forget"]
    assert score.value == 100.0


ASKING = {
    "knowmem_forget": 6,
    "paraphrase_questions": 9,
    "paraphrase_retention": 4,
    "utility": 6,
    "neighbours": 3,
    "rouge": 7,
    "rouge_neighbours": 4,
    "distinct_n": 5,
    "fluency": 8,
    "edit_locality": 6,
}
"""Metrics that ask questions, and how many tokens each lets the model say."""


def test_company_changes_no_score() -> None:
    def asked(split: str) -> tuple[Example, ...]:
        return tuple(question(f"{split}{n}", f"{split} {n}", "in the town") for n in range(3))

    probes = Probes(
        forget=(document("d", TEXT * 2), *asked("forget")),
        paraphrase_questions=asked("again"),
        retain=asked("retain"),
        neighbours=asked("near"),
        retain_icl=asked("shown"),
    )
    chosen = {
        name: metrics.build({"name": name, "max_new_tokens": tokens}) for name, tokens in ASKING.items()
    }
    together = Observer(tiny("llama"), tiny_tokenizer(), max_length=256)
    for metric in chosen.values():
        metric.prefetch(together, probes)
    for metric in chosen.values():
        alone = Observer(tiny("llama"), tiny_tokenizer(), max_length=256)
        assert metric.measure(together, probes) == metric.measure(alone, probes)
