"""Two ways of doing the same: timed in turns in one process, their memory taken in one process each."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from expunge.files import write_json
from expunge.record import Stopwatch, make_record, peak_memory_mib

RESULTS = Path(__file__).parent / "results"
BUSY = 1.5
"""Load average above which another process takes part of the cores."""


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Seconds of each turn, plain and ours taken alternately."""

    plain: tuple[float, ...]
    ours: tuple[float, ...]

    @property
    def summary(self) -> dict[str, Any]:
        """Medians, their ratio, and the smallest and largest ratio of two neighbouring turns."""
        pairs = [plain / ours for plain, ours in zip(self.plain, self.ours, strict=True)]
        plain, ours = statistics.median(self.plain), statistics.median(self.ours)
        return {
            "plain_seconds": round(plain, 4),
            "ours_seconds": round(ours, 4),
            "times_faster": round(plain / ours, 3),
            "times_faster_of_turns": [round(min(pairs), 3), round(max(pairs), 3)],
            "turns": asdict(self),
        }


def in_turns(plain: Callable[[], Any], ours: Callable[[], Any], *, warm_up: int, turns: int) -> Turns:
    """Call both alternately; the first ``warm_up`` calls of each are not counted."""
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    for turn in range(warm_up + turns):
        for name, work in (("plain", plain), ("ours", ours)):
            began = time.perf_counter()
            work()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - began)
    return Turns(plain=tuple(seconds["plain"]), ours=tuple(seconds["ours"]))


class Peak:
    """The largest resident size of this process, in all and above what it was when this was made."""

    def __init__(self) -> None:
        self.before = psutil.Process().memory_info().rss / 2**20

    @property
    def summary(self) -> dict[str, float]:
        """MiB before, at the peak, and between the two."""
        peak = peak_memory_mib()
        return {
            "before_mib": round(self.before, 1),
            "peak_mib": round(peak, 1),
            "above_mib": round(peak - self.before, 1),
        }


def memory_ratios(plain: dict[str, float], ours: dict[str, float]) -> dict[str, Any]:
    """The memory of the two and ours as a share of the plain one's, in all and above the start."""
    return {
        "plain_memory": plain,
        "ours_memory": ours,
        "peak_share": round(ours["peak_mib"] / plain["peak_mib"], 3),
        "peak_share_above_model": round(ours["above_mib"] / plain["above_mib"], 3),
    }


def in_own_process(module: str, *arguments: str) -> dict[str, Any]:
    """What ``python -m module arguments`` prints as its last line, as JSON; one thread."""
    found = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"},
        cwd=Path(__file__).parents[1],
    )
    result: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return result


def one_thread() -> None:
    """As in the demo: two jobs side by side, one thread each."""
    torch.set_num_threads(1)


def wait_until_quiet(*, at_most: float = 120.0) -> float:
    """Wait until the machine has little else to do; returns the load average it settled for."""
    began = time.monotonic()
    while os.getloadavg()[0] > BUSY and time.monotonic() - began < at_most:
        time.sleep(5)
    return os.getloadavg()[0]


def write_result(name: str, watch: Stopwatch, *, load_before: float, **facts: Any) -> None:
    """Keep a result with the record of the run, and how busy the machine was."""
    load = {"before": round(load_before, 2), "after": round(os.getloadavg()[0], 2)}
    record = make_record(command=f"benchmarks.{name}", watch=watch, load_average=load, **facts)
    write_json(RESULTS / f"{name}.json", record)


def same(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> float:
    """The largest relative difference of two tensors that belong together: ‖a − b‖ / ‖b‖."""
    gaps = [
        float((a - b).double().norm() / b.double().norm().clamp_min(1e-30))
        for a, b in zip(left, right, strict=True)
    ]
    return max(gaps)
