"""Social bias: StereoSet and CrowS-Pairs, from their published files."""

from __future__ import annotations

from expunge.corpus.benchmarks.base import Benchmark, Part

BENCHMARKS = (
    Benchmark(
        name="stereoset",
        title="StereoSet, within sentences",
        source="StereoSet (arXiv 2004.09456)",
        licence="CC-BY-SA-4.0",
        splits={
            name: (Part(config="dev", split="dev", reader="stereoset", is_local=True),)
            for name in ("forget", "choices")
        },
        metrics=("stereotype", "meaningful"),
        notes=("Put dev.json of the authors' repository into the folder.",),
    ),
    Benchmark(
        name="crows-pairs",
        title="CrowS-Pairs",
        source="CrowS-Pairs (arXiv 2010.00133)",
        licence="CC-BY-SA-4.0",
        splits={
            name: (
                Part(config="crows_pairs_anonymized", split="test", reader="crows_pairs", is_local=True),
            )
            for name in ("forget", "choices")
        },
        metrics=("stereotype",),
        notes=(
            "Put crows_pairs_anonymized.csv of the authors' repository into the folder.",
            "Later work found many of its pairs unsound (Blodgett et al. 2021): read single items.",
        ),
    ),
)
