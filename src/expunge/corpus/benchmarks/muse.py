"""MUSE: news articles and books, by six criteria.

Verbatim memory, knowledge memory, privacy leakage and utility are metrics; scalability and sustainability
are the same metrics after runs on larger sets, or on one set after the other.

Source: Shi et al. 2024, "MUSE: Machine Unlearning Six-Way Evaluation" (arXiv 2407.06460).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from expunge.corpus.benchmarks.base import Benchmark, BenchmarkSplit, Published

SOURCE = "MUSE (arXiv 2407.06460)"
PAPER = "MUSE (arXiv 2407.06460), Table 3; its released NPO and KL losses are on raw logits"
OPEN_UNLEARNING = "open-unlearning docs/repro.md (shares of 1, here times 100)"
ORDER = ("verbmem", "knowmem_forget", "privleak", "utility")
FOLDS = range(1, 5)
PROTOCOLS = ("muse", "open_unlearning")

_Table = Mapping[str, tuple[float, float, float, float]]
_NEWS: _Table = {
    "target": (58.4, 63.9, -99.8, 55.2),
    "retrained": (20.8, 33.1, 0.0, 55.0),
    "GA": (0, 0, 5.2, 0),
    "GA_GDR": (4.9, 31.0, 108.1, 27.3),
    "GA_KLR": (27.4, 50.2, -96.1, 44.8),
    "NPO": (0, 0, 24.4, 0),
    "NPO_GDR": (1.2, 54.6, 105.8, 40.5),
    "NPO_KLR": (26.9, 49.0, -95.8, 45.4),
    "Task vector": (57.2, 66.2, -99.8, 55.8),
    "WHP": (19.7, 21.2, 109.6, 28.3),
}
_BOOKS: _Table = {
    "target": (99.8, 59.4, -57.5, 66.9),
    "retrained": (14.3, 28.9, 0.0, 74.5),
    "GA": (0, 0, -25.0, 0),
    "GA_GDR": (0, 0, -26.5, 10.7),
    "GA_KLR": (16.0, 21.9, -40.2, 37.2),
    "NPO": (0, 0, -24.3, 0),
    "NPO_GDR": (0, 0, -30.8, 22.8),
    "NPO_KLR": (17.0, 25.0, -43.5, 44.6),
    "Task vector": (99.7, 52.4, -57.5, 64.7),
    "WHP": (18.0, 55.7, 56.5, 63.6),
}
_NEWS_AGAIN: _Table = {
    "target": (58, 64, -99.81, 56),
    "retrained": (20, 33, 0, 56),
    "GradAscent": (0, 0, 52.11, 0),
    "GradDiff": (0.89, 41, 93.23, 37),
    "NPO": (35, 56, -86.00, 51),
    "SimNPO": (36, 54, -86.11, 51),
    "RMU": (5, 48, 56.36, 51),
}
_BOOKS_AGAIN: _Table = {
    "target": (100, 47, -57.26, 69),
    "retrained": (14, 30, 0, 69),
    "GradAscent": (0, 0, -0.67, 0),
    "GradDiff": (16, 18, -37.79, 30),
    "NPO": (84, 32, -54.24, 55),
    "SimNPO": (84, 32, -54.26, 54),
    "RMU": (79, 29, -60.52, 48),
}
_PUBLISHED = {
    ("News", "muse"): (_NEWS, PAPER),
    ("Books", "muse"): (_BOOKS, PAPER),
    ("News", "open_unlearning"): (_NEWS_AGAIN, OPEN_UNLEARNING),
    ("Books", "open_unlearning"): (_BOOKS_AGAIN, OPEN_UNLEARNING),
}
_REVISION = {
    "News": "506bd5b150b92814d45e4404a82f120ab2d748bf",
    "Books": "051ba90319e920d410d87cfdbd61f25843c1b892",
}
_MODELS = {
    "News": {
        "target": "muse-bench/MUSE-News_target@a2f39769e9a0b98ec1cdd12f65e9962502208935",
        "retrained": "muse-bench/MUSE-News_retrain@324ef49ee0a038078aba7d8de831edf57235c9b3",
    },
    "Books": {
        "target": "muse-bench/MUSE-Books_target@c8dd3fb23a726762ec66d277933c7cff6767f3c2",
        "retrained": "muse-bench/MUSE-Books_retrain@1d67430e4e8bdf2a65823740e909792519175ac2",
    },
}
_STARTED_FROM = {"News": "Llama-2-7b", "Books": "ICLM-7B"}


def _part(config: str, split: str, **fields: str) -> BenchmarkSplit:
    return BenchmarkSplit(config=config, split=split, fields=fields)


SPLITS: Mapping[str, tuple[BenchmarkSplit, ...]] = {
    "forget": (_part("knowmem", "forget_qa"), _part("privleak", "forget")),
    "retain": (_part("knowmem", "retain_qa"),),
    "holdout": (_part("privleak", "holdout"),),
    "forget_icl": (_part("knowmem", "forget_qa_icl"),),
    "retain_icl": (_part("knowmem", "retain_qa_icl"),),
    "verbatim": (_part("verbmem", "forget", prompt="prompt", completion="gt"),),
}
"""Questions and documents stand side by side in the forget split: each metric reads its own kind."""


def _metrics(protocol: str) -> tuple[dict[str, Any], ...]:
    return tuple({"name": name, "protocol": protocol} for name in ORDER)


def _muse(
    corpus: str, name: str, title: str, forget: BenchmarkSplit, metrics: tuple[Any, ...], **more: Any
) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        source=SOURCE,
        licence="CC BY 4.0",
        hub=f"muse-bench/MUSE-{corpus}",
        revision=_REVISION[corpus],
        models=_MODELS[corpus],
        splits=SPLITS,
        corpora={"forget": (forget,), "retain": (_part("raw", "retain1"),)},
        metrics=metrics,
        **more,
    )


def _six_ways(corpus: str, protocol: str) -> Benchmark:
    table, source = _PUBLISHED[corpus, protocol]
    rows = tuple(
        Published(
            method=method,
            model=_STARTED_FROM[corpus],
            values=dict(zip(ORDER, values, strict=True)),
            source=source,
        )
        for method, values in table.items()
    )
    ending = "" if protocol == "muse" else "-open-unlearning"
    return _muse(
        corpus,
        f"muse-{corpus.lower()}{ending}",
        f"MUSE {corpus}, protocol {protocol}",
        _part("raw", "forget"),
        _metrics(protocol),
        published=rows,
    )


def _folds(criterion: str, kind: str, note: str) -> tuple[Benchmark, ...]:
    """Utility after unlearning a larger set (``scal``), or one more set (``sust``); News only."""
    return tuple(
        _muse(
            "News",
            f"muse-news-{kind}-{fold}",
            f"MUSE News, {criterion}, set {fold} of {len(FOLDS)}",
            _part(kind, f"forget_{fold}"),
            ({"name": "utility", "protocol": "muse"},),
            notes=(note,),
        )
        for fold in FOLDS
    )


BENCHMARKS = (
    *(_six_ways(corpus, protocol) for protocol in PROTOCOLS for corpus in _REVISION),
    *_folds("scalability", "scal", "Each set holds the one before it; every run starts from the target."),
    *_folds("sustainability", "sust", "Sets share nothing; a run starts from the model of the one before."),
)
