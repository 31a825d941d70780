"""The reference cache in a file against one in memory: resident memory by size, and time of a step.

    python -m benchmarks.reference_cache [--turns 9] [--tiny]

Memory: each in a process of its own, for a retain set and one 50 times as large, filled and then read once
from end to end. Time: the same NPO_KLR step with either cache, in turns.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.compare import in_own_process, in_turns, one_thread, wait_until_quiet, write_result
from benchmarks.step import TINY, OurStep, Setting
from expunge.corpus.batching import collate, collate_pairs
from expunge.corpus.tokenise import Encoded
from expunge.inference.reference import CachedReference, CacheFolder, Key, cache_reference
from expunge.record import Stopwatch
from expunge.scope.by_name import AllParameters

MODULE = "benchmarks.reference_cache"
SHAPE = Setting(hidden=512, layers=1, vocabulary=1000, length=128)
FEW, TIMES = 60, 50


def cached(texts: list[Encoded], folder: Path | None, model: Any) -> CachedReference:
    """A cache of a hidden state per token of ``texts``."""
    return cache_reference(
        model,
        logps_of=(),
        states_of=[(Key("retain", place), text) for place, text in enumerate(texts)],
        pad_id=0,
        head_may_change=False,
        keep=CacheFolder(folder) if folder else None,
        batch_tokens=2048,
    )


def resident(setting: Setting, count: int, *, in_file: bool) -> dict[str, float]:
    """MiB a process holds after it filled the cache and read all of it, above the model and the texts."""
    generator = torch.Generator().manual_seed(0)
    mask = [False] + [True] * (setting.length - 1)
    texts = [
        Encoded(
            torch.randint(setting.vocabulary, (setting.length,), generator=generator).tolist(),
            mask,
            "random",
        )
        for _ in range(count)
    ]
    model = setting.model().eval()
    process = psutil.Process()
    before = process.memory_info().rss
    with tempfile.TemporaryDirectory() as folder:
        reference = cached(texts, Path(folder) if in_file else None, model)
        for place, text in enumerate(texts):
            reference.states(collate([text], pad_id=0), [Key("retain", place)])
        return {
            "above_mib": round((process.memory_info().rss - before) / 2**20, 1),
            "cache_mib": round(reference.bytes / 2**20, 1),
        }


def steps(setting: Setting, turns: int) -> dict[str, Any]:
    """Seconds of a step with the cache in memory and in a file."""
    pairs = setting.pairs()
    batch = collate_pairs(pairs, pad_id=0)
    model = setting.model()
    step = OurStep(model, pairs, AllParameters())
    in_memory = step.objective.reference
    texts = [pair.retain for pair in pairs if pair.retain is not None]
    with tempfile.TemporaryDirectory() as folder:
        in_file = cache_reference(
            model,
            logps_of=[(Key("forget", pair.forget_id), pair.forget) for pair in pairs],
            states_of=[(Key("retain", place), text) for place, text in enumerate(texts)],
            pad_id=0,
            head_may_change=True,
            keep=CacheFolder(Path(folder)),
        )

        def taken(reference: Any) -> None:
            object.__setattr__(step.objective, "reference", reference)
            step(batch)

        found = in_turns(lambda: taken(in_memory), lambda: taken(in_file), warm_up=1, turns=turns)
    return found.summary


def main() -> None:
    """Measure, or be one of the processes whose memory is measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--tiny", action="store_true", help="does the benchmark itself work?")
    parser.add_argument("--count", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--in-file", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    one_thread()
    shape = TINY if asked.tiny else SHAPE
    if asked.count:
        print(json.dumps(resident(shape, asked.count, in_file=asked.in_file)))
        return
    watch, load = Stopwatch(), 0.0 if asked.tiny else wait_until_quiet()
    size = ["--tiny"] if asked.tiny else []
    memory = {
        way: {
            str(count): in_own_process(MODULE, f"--count={count}", *size, *option)
            for count in (FEW, FEW * TIMES)
        }
        for way, option in (("in_file", ["--in-file"]), ("in_memory", []))
    }
    timed = steps(TINY if asked.tiny else Setting(), asked.turns)
    print(json.dumps({"memory": memory, "times_faster": timed["times_faster"]}))
    if not asked.tiny:
        write_result(
            "reference-cache", watch, load_before=load, texts=[FEW, FEW * TIMES], memory=memory, **timed
        )


if __name__ == "__main__":
    main()
