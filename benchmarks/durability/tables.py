"""The study's tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from benchmarks.durability.arms import LARGE, METHODS, MIDDLE, RETAINING, SMALL, Arm
from benchmarks.durability.results import FORGET, FULL

COLUMNS = (FULL, "int8", "int4", "gptq4", "awq4-g64", "fp4", "nf4", "gguf-q4_k", "int4-tensor")
FOUR_BITS = COLUMNS[2:]
TITLES = {
    "verbmem": "VerMem ↓",
    "knowmem_forget": "KnowMem(forget) ↓",
    "privleak": "PrivLeak → 0",
    "utility": "KnowMem(retain) ↑",
}


class Cells:
    """The cells of one width by model, condition and metric."""

    def __init__(self, results: Mapping[str, Any], width: int = 256) -> None:
        rows = [row for row in results["cells"] if row["width"] == width]
        self.by = {(row["model"], row["condition"], row["metric"]): row for row in rows}

    def __contains__(self, model: str) -> bool:
        return (model, FULL, FORGET) in self.by

    def value(self, model: str, condition: str, metric: str = FORGET) -> float | None:
        """The mean over seeds."""
        value: float | None = self.by[model, condition, metric]["value"]["value"]
        return value

    def part(self, model: str, condition: str, part: str, metric: str = FORGET) -> Mapping[str, Any]:
        """Recovery, excess or retention of a cell."""
        found: Mapping[str, Any] = self.by[model, condition, metric][part]
        return found


def table_of_the_paper(results: Mapping[str, Any]) -> str:
    """Six methods and four with SURE under every deployed format, four metrics, with intervals."""
    cells = Cells(results)
    parts = []
    for title, weights in (
        ("As published: weights in bf16", "bf16"),
        ("By default: weights in fp32", "fp32"),
    ):
        models = ["target", "retrained", *_paper_rows(weights)]
        for metric, heading in TITLES.items():
            rows = [
                [
                    _short(model),
                    *(_with_interval(cells.by[model, column, metric]["value"]) for column in COLUMNS),
                ]
                for model in models
                if model in cells
            ]
            parts.append(f"**{title}. {heading}**\n\n" + markdown(["", *COLUMNS], rows))
    return "\n\n".join(parts)


def retention(results: Mapping[str, Any]) -> str:
    """The share of the target's score that is kept: the mean over the methods that retain."""
    cells = Cells(results)
    settings = {
        "bf16, small rate (2e-5): as published": [
            Arm(method=method, weights="bf16").cell for method in RETAINING
        ],
        "bf16, middle rate (4e-5)": [
            Arm(method=method, weights="bf16", rate=MIDDLE).cell for method in RETAINING
        ],
        "bf16, large rate and mask (SURE)": [
            Arm(method=method, weights="bf16", rate=LARGE, mask=True).cell for method in RETAINING
        ],
        "fp32, small rate": [Arm(method=method, weights="fp32").cell for method in RETAINING],
        "fp32, large rate and mask (SURE)": [
            Arm(method=method, weights="fp32", rate=LARGE, mask=True).cell for method in RETAINING
        ],
    }
    rows = []
    for title, models in settings.items():
        known = [model for model in models if model in cells]
        if known:
            rows.append([title, *(f"{_mean_retention(cells, known, column):.0f}" for column in COLUMNS)])
    control = [
        100 * (cells.value("retrained", column) or 0) / (cells.value("target", column) or 1)
        for column in COLUMNS
    ]
    rows.append(["retrained control", *(f"{share:.0f}" for share in control)])
    return markdown(["percent of the target's KnowMem(forget)", *COLUMNS], rows)


def factors(results: Mapping[str, Any]) -> str:
    """NPO with KL: every precision, rate and mask; KnowMem at full precision and its rise under 4 bits."""
    cells = Cells(results)
    rows = []
    for weights in ("bf16", "fp32", "bf16_stochastic", "lora"):
        for rate in (SMALL, MIDDLE, 8e-5, LARGE):
            for mask in (False, True):
                arm = Arm(method="npo_klr", weights=weights, rate=rate, mask=mask)  # type: ignore[arg-type]
                if arm.cell in cells:
                    rows.append(
                        [
                            weights,
                            f"{rate:g}",
                            "yes" if mask else "no",
                            _with_interval(cells.by[arm.cell, FULL, FORGET]["value"]),
                            f"{cells.part(arm.cell, FULL, 'retention', 'utility')['value']:.0f} %",
                            *(_rise(cells.part(arm.cell, column, "recovery")) for column in FOUR_BITS),
                        ]
                    )
    return markdown(["weights", "rate", "mask", "full", "utility kept", *FOUR_BITS], rows)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _paper_rows(weights: str) -> list[str]:
    plain = [Arm(method=method, weights=weights).cell for method in METHODS]  # type: ignore[arg-type]
    masked = [
        Arm(method=method, weights=weights, rate=LARGE, mask=True).cell  # type: ignore[arg-type]
        for method in RETAINING
    ]
    return [*plain, *masked]


def _mean_retention(cells: Cells, models: Sequence[str], condition: str) -> float:
    return mean(float(cells.part(model, condition, "retention")["value"]) for model in models)


def _short(cell: str) -> str:
    method, *rest = cell.split("-")
    return f"{method.upper()}+SURE" if "mask" in rest else method.upper() if rest else method


def _with_interval(estimate: Mapping[str, Any]) -> str:
    if estimate["value"] is None:
        return "-"
    if estimate["low"] is None:
        return f"{estimate['value']:.0f}"
    return f"{estimate['value']:.0f} [{estimate['low']:.0f}, {estimate['high']:.0f}]"


def _rise(estimate: Mapping[str, Any]) -> str:
    """Bold where the whole interval lies above 0."""
    text = f"{estimate['value']:+.0f}"
    return f"**{text}**" if estimate["low"] is not None and estimate["low"] > 0 else text
