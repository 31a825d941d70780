"""TOFU: fictitious authors, and what else a model must still know.

Source: Maini et al. 2024, "TOFU: A Task of Fictitious Unlearning for LLMs" (arXiv 2401.06121).
"""

from __future__ import annotations

from expunge.corpus.benchmarks.base import Benchmark, BenchmarkSplit, Published

SOURCE = "TOFU (arXiv 2401.06121)"
OPEN_UNLEARNING = "open-unlearning docs/repro.md (untuned: lr 1e-5, 10 epochs, batch 32)"
OTHERS = {"wrong": "perturbed_answer", "paraphrase": "paraphrased_answer"}
KNOWN = {"wrong": "perturbed_answer"}
RETAIN = {"01": "99", "05": "95", "10": "90"}
"""What is kept for each forget set, in percent of the 200 authors."""

METRICS = (
    *("forget_quality", "model_utility", "truth_ratio", "probability", "rouge", "knowmem_forget"),
    *("paraphrase_questions", "utility", "exact_memorisation", "extraction_strength", "privleak", "auc"),
    *("mia_loss", "mia_zlib", "mia_min_k_pp"),
)

_ORDER = ("forget_quality", "model_utility", "truth_ratio")
_LLAMA_2 = {
    "target": ((1.27e-3, 0.63, 0.53), (5.87e-14, 0.63, 0.51), (4.35e-25, 0.63, 0.52)),
    "retrained": ((1, 0.63, 0.68), (1, 0.63, 0.67), (1, 0.61, 0.68)),
    "GradAscent": ((1.88e-4, 0.55, 0.36), (1.94e-119, 0, 8.82e-96), (1.06e-239, 0, 2.21e-32)),
    "GradDiff": ((3.02e-3, 0.57, 0.41), (1.94e-119, 0.56, 4.14e-95), (1.80e-229, 0.58, 1.46e-7)),
    "IdkDPO": ((0.1, 0.56, 0.67), (4.02e-6, 0.04, 0.67), (5.42e-13, 0.04, 0.64)),
    "NPO": ((0.4, 0.58, 0.65), (0.09, 0.53, 0.71), (0.42, 0.54, 0.73)),
    "SimNPO": ((1.27e-3, 0.58, 0.41), (1.06e-106, 0.60, 3.94e-5), (1.47e-198, 0.60, 3.17e-4)),
    "RMU": ((0.4, 0.62, 0.64), (9.59e-10, 0.02, 0.81), (6.92e-21, 0.03, 0.81)),
}
_LLAMA_3 = {
    "target": ((0.01, 0.60, 0.47), (1.33e-13, 0.60, 0.47), (1.66e-21, 0.60, 0.48)),
    "retrained": ((1, 0.60, 0.65), (1, 0.60, 0.64), (1, 0.59, 0.63)),
    "GradAscent": ((0.27, 0.33, 0.59), (1.94e-119, 0, 2.52e-23), (1.06e-239, 0, 2.25e-18)),
    "GradDiff": ((0.77, 0.43, 0.57), (1.94e-119, 0.53, 3.87e-34), (1.06e-239, 0.49, 3.53e-27)),
    "IdkDPO": ((0.01, 0.51, 0.60), (1.12e-5, 0.07, 0.62), (4.64e-12, 0.23, 0.60)),
    "NPO": ((0.92, 0.56, 0.66), (0.14, 0.45, 0.70), (0.02, 0.46, 0.70)),
    "SimNPO": ((0.58, 0.46, 0.55), (5.01e-100, 0.58, 4.19e-3), (2.47e-203, 0.54, 1.07e-5)),
    "RMU": ((0.16, 0.55, 0.70), (4.87e-10, 0.58, 0.77), (3.15e-15, 0.59, 0.76)),
}
_TABLES = {"Llama-2-7b-chat-hf": _LLAMA_2, "Llama-3.2-1B-Instruct": _LLAMA_3}


def _published(column: int) -> tuple[Published, ...]:
    return tuple(
        Published(
            method=method,
            model=model,
            values=dict(zip(_ORDER, values[column], strict=True)),
            source=OPEN_UNLEARNING,
        )
        for model, table in _TABLES.items()
        for method, values in table.items()
    )


def _part(config: str, **fields: str) -> tuple[BenchmarkSplit, ...]:
    return (BenchmarkSplit(config=config, split="train", fields=fields),)


def _tofu(column: int, share: str, kept: str) -> Benchmark:
    forget = f"forget{share}_perturbed"
    return Benchmark(
        name=f"tofu-forget{share}",
        title=f"TOFU, {int(share)} % of the authors forgotten",
        source=SOURCE,
        licence="MIT",
        hub="locuslab/TOFU",
        revision="324592d84ae4f482ac7249b9285c2ecdb53e3a68",
        splits={
            "forget": _part(forget, **OTHERS),
            "paraphrase_questions": _part(forget, question="paraphrased_question"),
            "retain": _part("retain_perturbed", **OTHERS),
            "real_authors": _part("real_authors_perturbed", **KNOWN),
            "world_facts": _part("world_facts_perturbed", **KNOWN),
            "holdout": _part(f"holdout{share}"),
        },
        optional=frozenset({"holdout"}),
        corpora={
            "full": _part("full"),
            "forget": _part(f"forget{share}"),
            "retain": _part(f"retain{kept}"),
        },
        metrics=METRICS,
        published=_published(column),
        notes=(
            "All retain sets are evaluated on the same 400 questions, which every one of them holds.",
            "Twenty questions in a row are about one author; intervals take them as independent.",
        ),
    )


BENCHMARKS = tuple(_tofu(place, *pair) for place, pair in enumerate(RETAIN.items()))
