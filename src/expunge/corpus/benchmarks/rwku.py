"""RWKU's form of probes, for one's own data: blanks to fill, questions, tricky questions, neighbours.

Source: Jin et al. 2024, "RWKU: Benchmarking Real-World Knowledge Unlearning" (arXiv 2406.10890).
"""

from __future__ import annotations

from expunge.corpus.benchmarks.base import Benchmark, BenchmarkSplit

FIELDS = {"question": "query", "group": "subject"}
BLANK = "Please complete the blank in the following sentence.\nSentence: {question}\nAnswer: "


def _part(config: str, *, blank: bool = False) -> tuple[BenchmarkSplit, ...]:
    if blank:
        return (BenchmarkSplit(config=config, split="test", fields=FIELDS, template=BLANK),)
    return (BenchmarkSplit(config=config, split="test", fields=FIELDS),)


RWKU = Benchmark(
    name="rwku",
    title="Probes in RWKU's form",
    source="RWKU (arXiv 2406.10890)",
    licence="that of your data",
    splits={
        "cloze": _part("forget_level1", blank=True),
        "forget": _part("forget_level2"),
        "adversarial": _part("forget_level3"),
        "neighbours_fill_in": _part("neighbor_level1", blank=True),
        "neighbours": _part("neighbor_level2"),
    },
    optional=frozenset({"cloze", "adversarial", "neighbours_fill_in", "neighbours"}),
    metrics=("rouge_fill_in", "rouge", "rouge_adversarial", "rouge_neighbours_fill_in", "rouge_neighbours"),
    notes=(
        "Files hold query, answer and subject, as RWKU's do; intervals are over subjects.",
        "What is compared is the recall of ROUGE-L, as in RWKU.",
    ),
)

BENCHMARKS = (RWKU,)
