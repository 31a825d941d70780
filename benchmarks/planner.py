"""The memory planner: against a measured step, and the table of large models in docs/large-models.md.

python -m benchmarks.planner --check     # simulated against resident memory, two models, here
python -m benchmarks.planner             # the table, written into the page (about ten minutes)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import LlamaConfig

from benchmarks.compare import in_own_process, write_result
from benchmarks.step import MODULE as STEP
from benchmarks.step import Setting
from expunge.model.resources import GIB
from expunge.record import Stopwatch
from expunge.train.methods.unlearn import Unlearn
from expunge.train.run.plan import Device, MemoryPlan, Workload, simulate

PAGE = Path(__file__).parents[1] / "docs" / "large-models.md"
MARKS = ("<!-- planner -->", "<!-- end of planner -->")
TOKENS, BATCH, RETAIN_TOKENS = 2048, 2, 1_000_000
SHAPES = {  # Llama 3.2 1B, 3.1 8B and 3.1 70B
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16},
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
    "70B": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80},
}
HEADS = {"1B": 32, "8B": 32, "70B": 64}
LORA = {"name": "lora", "rank": 16}
WAYS: dict[str, dict[str, Any]] = {
    "full, fp32": {},
    "full, 6 bytes": {"precision": "bf16_stochastic", "optimizer": "adamw_8bit"},
    "LoRA": {"precision": "bf16_stochastic", "scope": LORA},
}


def config_of(size: str) -> LlamaConfig:
    """The configuration of a Llama of that size."""
    return LlamaConfig(
        vocab_size=128256,
        num_attention_heads=HEADS[size],
        num_key_value_heads=8,
        tie_word_embeddings=size == "1B",
        max_position_embeddings=131072,
        **SHAPES[size],
    )


def stage_of(**settings: Any) -> Unlearn:
    """NPO with a KL retain loss."""
    return Unlearn(
        **{"forget": {"name": "npo"}, "retain": {"name": "klr"}, "batch_size": BATCH, **settings}
    )


def rows() -> Iterator[tuple[str, str, bool, MemoryPlan]]:
    """Every size, way and checkpointing, on a GPU."""
    device = Device(is_gpu=True, memory=80 * GIB)
    work = Workload(
        forget_length=TOKENS, retain_length=TOKENS, cached_logps=RETAIN_TOKENS, cached_states=RETAIN_TOKENS
    )
    for size in SHAPES:
        for way, settings in WAYS.items():
            for checkpointing in (False, True):
                stage = stage_of(gradient_checkpointing=checkpointing, **settings)
                yield size, way, checkpointing, simulate(stage, config_of(size), work, device)


def table() -> dict[str, Any]:
    """The table as Markdown, and its numbers."""
    heads = ["model", "way", "checkpoints", "peak, GiB", "weights", "gradients", "optimizer", "activations"]
    heads += ["frozen head", "cache on disk"]
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join(['---'] * len(heads))} |"]
    found = []
    for size, way, checkpointing, plan in rows():
        parts = [f"{plan.parts[name] / GIB:.1f}" for name in plan.parts]
        disk = "none" if way == "LoRA" else f"{plan.on_disk / GIB:.1f}"
        cells = [size, way, "yes" if checkpointing else "no", f"**{plan.peak / GIB:.1f}**", *parts, disk]
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
        found.append({"model": size, "way": way, "checkpointing": checkpointing, **plan.gib})
    return {"markdown": "\n".join(lines), "rows": found}


CHECKED = {"4 blocks of 512": Setting(), "2 blocks of 1024": Setting(hidden=1024, layers=2, batch=8)}


def check() -> dict[str, Any]:
    """The simulated peak above an empty process, and the resident memory of a process that takes steps."""
    found = {}
    for name, setting in CHECKED.items():
        stage = stage_of(batch_size=setting.batch)
        work = Workload(forget_length=setting.length, retain_length=setting.length)
        plan = simulate(stage, setting.model().config, work, Device(is_gpu=False, memory=0))
        sizes = json.dumps(asdict(setting))
        measured = in_own_process(STEP, "--part=ours", "--scope=all", f"--sizes={sizes}")
        weights = plan.parts["weights"] / 2**20
        above = measured["above_mib"] + weights
        found[name] = {
            "simulated_mib": round(plan.peak / 2**20),
            "measured_mib": round(above),
            "ratio": round(plan.peak / 2**20 / above, 3),
        }
        print(name, found[name], flush=True)
    return found


def main() -> None:
    """Check, or write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="against resident memory, instead of the table"
    )
    asked = parser.parse_args()
    watch = Stopwatch()
    if asked.check:
        write_result("planner-check", watch, load_before=0.0, models=check())
        return
    made = table()
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    PAGE.write_text(f"{before}{MARKS[0]}\n{made['markdown']}\n{MARKS[1]}{after}", encoding="utf-8")
    write_result("planner", watch, load_before=0.0, rows=made["rows"])


if __name__ == "__main__":
    main()
