"""The tables of ``docs/shards.md``, made from the committed results and from nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.shards.arms import PLANS, Start
from benchmarks.shards.rates import METHODS
from expunge.files import write_text

ONE = "1 x 1"
BEGUN: dict[Start, str] = {"random": "random weights", "base": "a base", "adapters": "a base, adapters"}


def fill(path: Path, results: Mapping[str, Any]) -> None:
    """Replace what stands between ``<!-- NAME -->`` and ``<!-- end -->`` by the table of that name."""
    text = path.read_text(encoding="utf-8")
    tables = {"shards": cuts(results["arms"]), "fair": rates(results["rates"])}
    for name, made in tables.items():
        between = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- end -->)", re.DOTALL)
        old = between.findall(text)
        if len(old) != 1:
            raise ValueError(f"{path} has {len(old)} places for the table {name}")
        text = text.replace(f"<!-- {name} -->\n{old[0]}", f"<!-- {name} -->\n\n{made}\n\n")
    write_text(path, text)


def cuts(arms: Sequence[Mapping[str, Any]]) -> str:
    """A row for every plan and way of answering together; scores are means, costs one a world."""
    heading = ["starts from", "shards x slices", "answered by", "utility", "forget before", "forget after"]
    heading += ["paraphrased after", "read to delete", "in theory", "of all anew", "equal tensors"]
    rows = []
    for shards, slices, start in PLANS:
        own = [arm for arm in arms if (arm["cut"], arm["start"]) == (f"{shards} x {slices}", start)]
        ways = ["probability"] if shards == 1 else ["probability", "vote"]
        rows += [[BEGUN[start], *_row(own, by)] for by in ways if own]
    return _markdown(heading, rows)


def rates(found: Mapping[str, Any]) -> str:
    """A row for every way of correcting."""
    heading = ["", "accuracy", "gap", "accuracy held out", "gap held out"]
    heading += ["by hand: accuracy", "gap"]
    fitted, held = found["mean"]["calibration"], found["mean"]["held_out"]
    rows = [
        [
            name,
            *(f"{each[name][key]:.3f}" for each in (fitted, held) for key in ("accuracy", "gap")),
            *(f"{found['by_hand'][name][key]:.3f}" for key in ("accuracy", "gap")),
        ]
        for name in METHODS
    ]
    return _markdown(heading, rows)


def _row(own: Sequence[Mapping[str, Any]], by: str) -> list[str]:
    known = [
        [arm[when][by][split] for arm in own]
        for when, split in (
            ("before", "utility"),
            ("before", "forget"),
            ("after", "forget"),
            ("after", "paraphrase_questions"),
        )
    ]
    counted = {key: sum(arm[key] for arm in own) for key in ("equal", "tensors", "examples_anew")}
    return [
        "one model" if own[0]["cut"] == ONE else own[0]["cut"],
        "itself" if own[0]["cut"] == ONE else by,
        *(f"{mean(values):.0f} ({min(values):.0f}-{max(values):.0f})" for values in known),
        *(", ".join(str(arm[key]) for arm in own) for key in ("examples_read", "examples_in_theory")),
        f"{sum(arm['examples_read'] for arm in own) / counted['examples_anew']:.0%}",
        f"{counted['equal']} of {counted['tensors']}",
    ]


def _markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
