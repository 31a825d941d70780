"""The four MUSE metrics of the built-in target, ours against one prompt at a time: same values.

    python -m benchmarks.evaluation [--turns 3]

The plain way is what released evaluations do: ``generate`` for every prompt alone, cut afterwards;
full logits for every text alone. Both are timed in turns in one process; the memory of either is
taken in one more process each. The built-in target is trained first if it is not there yet.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.compare import (
    Peak,
    in_own_process,
    in_turns,
    memory_ratios,
    one_thread,
    wait_until_quiet,
    write_result,
)
from expunge.bench.builtin import Builtin
from expunge.corpus.readers import read_examples
from expunge.corpus.tokenise import encode, encode_prompt
from expunge.inference.observer import Observer, cut
from expunge.inference.texts import TokenStats
from expunge.metrics import metrics
from expunge.metrics.base import Measured
from expunge.metrics.probes import Probes
from expunge.model.load import load_model, load_tokenizer
from expunge.record import Stopwatch
from expunge.types import Example

METRICS = ("verbmem", "knowmem_forget", "auc", "utility")
"""PrivLeak is a function of ``auc`` here and of the control's: one model is measured."""
SPLITS = ("forget", "retain", "holdout", "forget_icl", "retain_icl")
MAX_LENGTH = 1024
MODULE = "benchmarks.evaluation"


class OneAtATime:
    """What a metric asks of an ``Observer``, done the plain way."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = MAX_LENGTH

    @torch.inference_mode()
    def greedy(
        self, prompts: Sequence[str | Example], *, max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[str]:
        """Every continuation to its end token or its last new token, cut afterwards."""
        return [cut(self._continue(str(prompt), max_new_tokens), stop) for prompt in prompts]

    def _continue(self, prompt: str, max_new_tokens: int) -> str:
        tokens = encode_prompt(Example(id="prompt", prompt=prompt, completion=""), self.tokenizer)
        said = self.model.generate(
            torch.tensor([tokens]),
            attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
        return cast("str", self.tokenizer.decode(said[0, len(tokens) :], skip_special_tokens=True))

    @torch.inference_mode()
    def facts(self, examples: Sequence[Example]) -> list[TokenStats]:
        """The log-probabilities of every text from its own full logits; nothing else is asked for."""
        return [self._facts(self._score(example)) for example in examples]

    def _facts(self, logps: Tensor) -> TokenStats:
        zeros = torch.zeros_like(logps)
        nothing = dict.fromkeys(("token_n", "best_n", "mean_n", "variance_n"), zeros)
        return TokenStats(logp_n=logps, sensitive_n=zeros.bool(), **nothing)

    def _score(self, example: Example) -> Tensor:
        pieces = []
        for piece in encode(example, self.tokenizer, max_length=MAX_LENGTH):
            ids = torch.tensor([piece.input_ids])
            logps = self.model(input_ids=ids).logits.float().log_softmax(-1)
            chosen = logps[0, :-1].gather(-1, ids[0, 1:, None]).squeeze(-1)
            pieces.append(chosen[torch.tensor(piece.mask[1:])])
        return torch.cat(pieces)


class Evaluation:
    """The built-in target and its probes, measured either way."""

    def __init__(self) -> None:
        built = Builtin()
        folder = built.build("target")
        self.model: Any = load_model(folder)
        self.tokenizer = load_tokenizer(folder, model=self.model)
        world = built.world_folder
        self.probes = Probes(**{name: tuple(read_examples(world / f"{name}.jsonl")) for name in SPLITS})

    def plain(self) -> dict[str, Measured]:
        """One prompt, one text at a time."""
        return self._measure(cast("Observer", OneAtATime(self.model, self.tokenizer)))

    def ours(self) -> dict[str, Measured]:
        """Through a fresh ``Observer``, as an audit does."""
        return self._measure(Observer(self.model, self.tokenizer, max_length=MAX_LENGTH))

    def _measure(self, observed: Observer) -> dict[str, Measured]:
        chosen = {name: metrics.build({"name": name}) for name in METRICS}
        return {name: metric.measure(observed, self.probes) for name, metric in chosen.items()}


def require_same(plain: dict[str, Measured], ours: dict[str, Measured]) -> float:
    """Refuse two ways that do not say the same; returns the largest difference of a score."""
    largest = 0.0
    for name, splits in plain.items():
        for split, scores in splits.items():
            for one, other in zip(scores, ours[name][split], strict=True):
                if one.detail.get("said") != other.detail.get("said"):
                    raise SystemExit(f"{name} of {one.item}: {one.detail} is not {other.detail}")
                if one.value is not None and other.value is not None:
                    largest = max(largest, abs(one.value - other.value))
    if largest > 1e-4:
        raise SystemExit(f"scores differ by {largest}")
    return largest


def main() -> None:
    """Measure, or be one of the processes whose memory is measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--turns", type=int, default=3, help="turns each way")
    parser.add_argument("--part", choices=("plain", "ours"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    one_thread()
    evaluation = Evaluation()
    if asked.part:
        peak = Peak()
        getattr(evaluation, asked.part)()
        print(json.dumps(peak.summary))
        return
    watch, load = Stopwatch(), wait_until_quiet()
    gap = require_same(evaluation.plain(), evaluation.ours())
    turns = in_turns(evaluation.plain, evaluation.ours, warm_up=0, turns=asked.turns)
    memory = memory_ratios(*(in_own_process(MODULE, "--part", part) for part in ("plain", "ours")))
    items = {name: len(evaluation.probes.split(name)) for name in SPLITS}
    facts = {"metrics": METRICS, "items": items, "largest_difference": gap} | turns.summary | memory
    write_result("evaluation", watch, load_before=load, **facts)
    print(json.dumps({name: facts[name] for name in ("times_faster", "peak_share", "largest_difference")}))


if __name__ == "__main__":
    main()
