"""GPTQ of a model, ours against llm-compressor's on the same calibration tokens.

    python -m benchmarks.quantizers [--turns 3]

Both quantize a copy of the same random Llama to 4 bits, one step for 128 inputs, largest inputs first,
damping 0.01, block after block on the CPU. They are timed in turns in one process; the memory of either
is taken in a process of its own. The error ‖WX − ŴX‖ is measured layer by layer, X what the layer is
given at full precision, and must be no worse than llm-compressor's and below that of rounding to nearest.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.compare import (
    Peak,
    in_own_process,
    in_turns,
    memory_ratios,
    one_thread,
    wait_until_quiet,
    write_result,
)
from expunge.errors import ExpungeError
from expunge.model.arch import linear_layers, weight_oi
from expunge.quant.calibration import Calibration
from expunge.quant.gptq import GPTQ
from expunge.quant.llmc import LLMCompressorGPTQ, compress_in_place
from expunge.quant.rtn import RTN
from expunge.quant.sequential_calibration import sequential_inputs
from expunge.record import Stopwatch

MODULE = "benchmarks.quantizers"
GROUP = 128
NO_WORSE = 1.02
SIZES = {
    "usual": {"hidden": 512, "inner": 1408, "blocks": 2, "samples": 16, "length": 256},
    "tiny": {"hidden": 128, "inner": 256, "blocks": 2, "samples": 8, "length": 32},
}


class Task:
    """A model, its calibration tokens, and the two ways of quantizing it."""

    def __init__(self, size: str) -> None:
        sizes = SIZES[size]
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=sizes["hidden"],
            intermediate_size=sizes["inner"],
            num_hidden_layers=sizes["blocks"],
            vocab_size=4000,
            num_attention_heads=8,
            initializer_range=0.05,
        )
        self.model = LlamaForCausalLM(config).eval()
        # Words of a text are as unequal as this: the tenth is ten times as rare as the first.
        odds = 1 / torch.arange(1, config.vocab_size + 1)
        ids = torch.multinomial(odds, sizes["samples"] * sizes["length"], replacement=True)
        self.text = Calibration(name="random", ids_NT=ids.reshape(sizes["samples"], sizes["length"]))

    def plain(self) -> nn.Module:
        """A copy after llm-compressor."""
        done = copy.deepcopy(self.model)
        theirs = LLMCompressorGPTQ(group_size=GROUP)
        compress_in_place(done, theirs.algorithm, theirs.scheme, self.text.ids_NT)
        return done

    def ours(self) -> dict[str, Tensor]:
        """The weights of a copy under ours."""
        done = copy.deepcopy(self.model)
        with GPTQ(group_size=GROUP).applied(done, self.text):
            return {name: weight_oi(layer).detach() for name, layer in linear_layers(done).items()}

    def errors(self, weights: dict[str, Tensor]) -> dict[str, float]:
        """‖WX − ŴX‖ of every layer."""
        found = {}
        for groups in sequential_inputs(self.model, self.text.ids_NT):
            for inputs in groups:
                for name, layer in inputs.layers.items():
                    gap_OI = (weights[name] - weight_oi(layer)).double()
                    found[name] = float(((gap_OI @ inputs.gram_II.double()) * gap_OI).sum().sqrt())
        return found

    def compared(self) -> dict[str, Any]:
        """The errors of ours as a share of llm-compressor's and of rounding to nearest.

        Raises:
            RuntimeError: ours is not as good as it has to be.
        """
        plain = {name: weight_oi(layer).detach() for name, layer in linear_layers(self.plain()).items()}
        rtn = RTN(group_size=GROUP, scale="sym_half").packed(self.model) or {}
        ours, theirs = self.errors(self.ours()), self.errors(plain)
        nearest = self.errors({name: packed.dequantized() for name, packed in rtn.items()})
        shares = {
            "of_llm_compressor": [ours[name] / theirs[name] for name in ours],
            "of_rounding": [ours[name] / nearest[name] for name in ours],
        }
        if max(shares["of_llm_compressor"]) > NO_WORSE or max(shares["of_rounding"]) >= 1:
            raise RuntimeError(f"the error of ours is too large: {shares}")
        found = {
            name: {"least": round(min(own), 4), "most": round(max(own), 4)} for name, own in shares.items()
        }
        return {"layers": len(ours), **found}


def quietly() -> None:
    """Without what llm-compressor logs of every step and warns of on machines without an accelerator."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


def memory(way: str, size: str) -> None:
    """Print the memory of one way as JSON."""
    task = Task(size)
    task.model(task.text.ids_NT[:1])
    peak = Peak()
    getattr(task, way)()
    print(json.dumps(peak.summary))


def main() -> None:
    """Compare, and keep the result unless it is the tiny one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--memory", choices=("plain", "ours"))
    options = parser.parse_args()
    size = "tiny" if options.tiny else "usual"
    one_thread()
    quietly()
    if options.memory:
        memory(options.memory, size)
        return
    watch = Stopwatch()
    flags = ("--tiny",) if options.tiny else ()
    # First: the peak of a process counts what the process that started it held then.
    plain, ours = (in_own_process(MODULE, "--memory", way, *flags) for way in ("plain", "ours"))
    task = Task(size)
    errors = task.compared()
    load = wait_until_quiet(at_most=20.0)
    turns = in_turns(task.plain, task.ours, warm_up=1, turns=options.turns)
    facts = {
        "what": "GPTQ of two blocks of a Llama, against llm-compressor",
        "sizes": SIZES[size],
        "errors": errors,
        **turns.summary,
        **memory_ratios(plain, ours),
    }
    print(json.dumps({name: value for name, value in facts.items() if name != "turns"}, indent=2))
    if not options.tiny:
        write_result("quantizers", watch, load_before=load, **facts)


if __name__ == "__main__":
    try:
        main()
    except ExpungeError as error:
        raise SystemExit(str(error)) from error
