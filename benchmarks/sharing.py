"""One audit with every likelihood and text metric, against each of them alone: what sharing saves.

    python -m benchmarks.sharing [--turns 7] [--tiny]

MUSE's proportions on a random Llama: documents of the whole context, a continuation one sixteenth as long,
questions after ten solved ones. A random model never ends an answer, so answers are as long as they may be:
a sixty-fourth of the context as in MUSE, replies to bare questions twice that. One thread, and processor
seconds, the wall clock's beside them: waiting for a core does not count, sharing a cache with others does.
Every metric alone once; then the dearest of them and all together in turns. ``wide`` is the same with twice
the tokens in a batch: an answer is written a token at a time, which costs little more for many rows than
for few. Then the cost of the audit by number of items, each in a process of its own: `sharing.svg`.

Memory is measured with glibc's threshold for large blocks held fixed, so that it is what the audit holds;
left alone the threshold rises, and the heap between small blocks that stay is not given back
(``heap_by_items``).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from benchmarks.compare import RESULTS, Peak, in_own_process, one_thread, wait_until_quiet, write_result
from benchmarks.curve import draw
from expunge.corpus.batching import train_tokenizer
from expunge.inference.observer import Observer
from expunge.metrics import metrics
from expunge.metrics.base import Metric
from expunge.metrics.knowmem import KnowMem, ParaphraseRetention
from expunge.metrics.probes import Probes
from expunge.model.create import ScratchModel
from expunge.record import Stopwatch
from expunge.types import Example, Span

DEAR = frozenset({"mia_gradnorm", "extraction_likelihood", "sensitive_extraction", "exposure"})
"""Gradients, a generation for every token, hundreds of variants: measured only when asked for."""
ELSEWHERE = frozenset({"general", "jsd"})
"""What they read lies in files of its own, or is a second model."""
MODULE = "benchmarks.sharing"
SHOTS = 10


class Cost(NamedTuple):
    """Processor seconds, and those that went by."""

    seconds: float
    wall: float


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Sizes: tokens of a document, what of it is generated, documents and questions of each split."""

    context: int = 1024
    new_tokens: int = 64
    items: int = 12
    hidden: int = 256
    layers: int = 4
    vocabulary: int = 4000
    batch_tokens: int = 8192

    @cached_property
    def vocabulary_words(self) -> list[str]:
        """Words drawn at random, one token each."""
        letters = random.Random(0)
        return ["".join(letters.choices("abcdefghijklmnop", k=6)) for _ in range(self.vocabulary)]

    def words(self, count: int, seed: str) -> str:
        """Running text of so many words."""
        return " ".join(random.Random(seed).choices(self.vocabulary_words, k=count))

    @cached_property
    def tokenizer(self) -> Any:
        """One that knows every word."""
        return train_tokenizer([" ".join(self.vocabulary_words)] * 3, vocabulary=8 * self.vocabulary)

    @cached_property
    def probes(self) -> Probes:
        """Documents with a sensitive span and questions."""
        return Probes(
            forget=(*self._documents("forget"), *self._questions("forget", self.items)),
            holdout=self._documents("holdout"),
            retain=self._questions("retain", self.items),
            neighbours=self._questions("neighbours", self.items),
            paraphrase_questions=self._questions("again", self.items),
            forget_icl=self._questions("forget shown", SHOTS),
            retain_icl=self._questions("retain shown", SHOTS),
        )

    def _documents(self, split: str) -> tuple[Example, ...]:
        per_word = len(self.tokenizer(self.words(200, "measure"))["input_ids"]) / 200
        count = int((self.context - 8) / per_word)
        return tuple(
            Example(id=f"{split} {n}", completion=self.words(count, f"{split} {n}"), spans=(Span(7, 20),))
            for n in range(self.items)
        )

    def _questions(self, split: str, count: int) -> tuple[Example, ...]:
        return tuple(
            Example(
                id=f"{split} question {n}",
                prompt=f"Question: {self.words(8, f'{split} asks {n}')}?\nAnswer: ",
                completion=self.words(4, f"{split} answers {n}"),
            )
            for n in range(count)
        )

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """Every metric but the dear ones that the probes have something for."""
        return {name: self._metric(name) for name in metrics if self._is_measured(name)}

    def _is_measured(self, name: str) -> bool:
        has_all = all(self.probes.split(split) for split in metrics[name].needs_splits)
        return has_all and name not in DEAR | ELSEWHERE

    def _metric(self, name: str) -> Metric:
        lengths = {"new_tokens": self.new_tokens, "max_new_tokens": self.context // 32}
        if issubclass(metrics[name], KnowMem | ParaphraseRetention):
            lengths["max_new_tokens"] = self.context // 64
        own = metrics[name].model_fields
        return metrics.build({"name": name} | {key: value for key, value in lengths.items() if key in own})

    @cached_property
    def model(self) -> Any:
        """A random Llama with room for solved questions."""
        shape = ScratchModel(hidden=self.hidden, layers=self.layers, context=2 * self.context)
        return shape.create(self.tokenizer, seed=0)

    def measure(self, *names: str) -> Cost:
        """What these metrics cost with one fresh observer."""
        observer = Observer(
            self.model, self.tokenizer, max_length=self.context, batch_tokens=self.batch_tokens
        )
        chosen = [self.metrics[name] for name in names]
        began, clock = time.process_time(), time.perf_counter()
        for metric in chosen:
            metric.prefetch(observer, self.probes)
        for metric in sorted(chosen, key=lambda each: each.runs_last):  # as an audit does
            metric.measure(observer, self.probes)
        return Cost(time.process_time() - began, time.perf_counter() - clock)


WIDE = 2
"""Times the tokens of a batch."""
TINY = {"context": 128, "new_tokens": 8, "items": 2, "hidden": 64, "layers": 2, "vocabulary": 300}
OF_WIDE = ("dearest", "share_of_dearest", "share_of_dearest_of_turns", "times_less_than_alone")
CURVE = {"context": 256, "new_tokens": 16, "batch_tokens": 1024, "vocabulary": 1000}
ITEMS = (8, 16, 32, 48)
FIXED = {"MALLOC_MMAP_THRESHOLD_": "131072"}
"""For glibc: blocks from 128 KiB on lie outside the heap and go back to the system at once."""


def take_turns(setting: Setting, turns: int) -> dict[str, Any]:
    """The seconds of every metric alone; the dearest and all together in turns; what they come to."""
    alone = {name: round(setting.measure(name).seconds, 4) for name in setting.metrics}
    dearest = max(alone, key=lambda name: alone[name])
    pairs = [(setting.measure(*setting.metrics), setting.measure(dearest)) for _ in range(turns)]
    ours, one = (statistics.median(cost.seconds for cost in side) for side in zip(*pairs, strict=True))
    shares = [together.seconds / least.seconds for together, least in pairs]
    return {
        "metrics": len(alone),
        "dearest": dearest,
        "together_seconds": round(ours, 4),
        "dearest_seconds": round(one, 4),
        "share_of_dearest": round(statistics.median(shares), 3),
        "share_of_dearest_of_turns": [round(share, 3) for share in shares],
        "sum_of_alone_seconds": round(sum(alone.values()), 4),
        "times_less_than_alone": round(sum(alone.values()) / ours, 3),
        "alone_seconds": alone,
        "together_turns": [together._asdict() for together, _ in pairs],
        "dearest_turns": [least._asdict() for _, least in pairs],
    }


def main() -> None:
    """Measure, or be one of the processes whose memory is measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--tiny", action="store_true", help="does the benchmark itself work?")
    parser.add_argument("--sizes", default="", help=argparse.SUPPRESS)
    parser.add_argument("--names", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    one_thread()
    if asked.sizes:
        print(json.dumps(part(json.loads(asked.sizes), asked.names)))
        return
    sizes: dict[str, Any] = TINY if asked.tiny else {}
    setting, watch, load = Setting(**sizes), Stopwatch(), 0.0 if asked.tiny else wait_until_quiet()
    facts = memory(
        setting, CURVE | sizes
    )  # first: a process begins with the peak of the one that started it
    setting.measure("auc")  # the first call of anything is slow
    facts |= take_turns(setting, asked.turns)
    wide = take_turns(replace(setting, batch_tokens=WIDE * setting.batch_tokens), asked.turns)
    facts["wide"] = {name: wide[name] for name in OF_WIDE}
    if not asked.tiny:
        draw(RESULTS / "sharing.svg", facts["by_items"])
        write_result("sharing", watch, load_before=load, sizes=asdict(setting), **facts)
    shown = ("share_of_dearest", "times_less_than_alone", "dearest", "wide", "by_items")
    print(json.dumps({name: facts[name] for name in shown}))


def memory(setting: Setting, curve: dict[str, Any]) -> dict[str, Any]:
    """What processes of their own need: for all metrics, for one of them, and by number of items."""
    own = json.dumps(asdict(setting))
    of_items = [json.dumps({**curve, "items": items}) for items in ITEMS]
    heap = [in_own_process(MODULE, "--sizes", each) for each in of_items[:: len(of_items) - 1]]
    os.environ |= FIXED
    return {
        "together_memory": in_own_process(MODULE, "--sizes", own),
        "one_metric_memory": in_own_process(MODULE, "--sizes", own, "--names", "mia_zlib"),
        "by_items": [in_own_process(MODULE, "--sizes", each) for each in of_items],
        "heap_by_items": heap,
    }


def part(sizes: dict[str, Any], names: str) -> dict[str, float]:
    """Seconds and memory of one audit, in a process that does nothing else."""
    setting = Setting(**sizes)
    chosen = [names] if names else list(setting.metrics)
    setting.model.eval()
    items = len(setting.probes.forget) // 2
    peak = Peak()
    cost = setting.measure(*chosen)
    return {"items": items, "seconds": round(cost.seconds, 4), **peak.summary}


if __name__ == "__main__":
    main()
