"""FairSISA on votes whose members know one group each, and on the case that is worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from statistics import mean
from typing import Any

import numpy as np

from expunge.shards.fair import Ints, Table
from expunge.shards.fairness import measured, predictors

RIGHT = ((0.90, 0.85, 0.60), (0.60, 0.65, 0.90))
"""How often each of three members is right on a group: the third shard holds the texts of the second."""
BY_HAND = ((0.95, 0.60, 0.60), (0.90, 0.55, 0.55))
TOGETHER = 0.2
"""Share of items on which all members are right or wrong together, so that votes go together."""
CALIBRATION, HELD_OUT = 2000, 20000
METHODS = ("plain", "pre", "in", "post")


def rates(seeds: Sequence[int]) -> dict[str, Any]:
    """Accuracy and gaps before and after correction: every seed, their mean, and the case by hand."""
    found = [_drawn(seed) for seed in seeds]
    return {
        "by_seed": found,
        "mean": {
            where: {
                name: {key: mean(one[where][name][key] for one in found) for key in found[0][where][name]}
                for name in METHODS
            }
            for where in ("calibration", "held_out")
        },
        "in_never_worse_than_post": all(
            one["calibration"]["in"]["accuracy"] >= one["calibration"]["post"]["accuracy"] - 1e-9
            for one in found
        ),
        "by_hand": _numbers(by_hand(), by_hand()),
    }


def by_hand() -> Table:
    """The population of independent members, exactly: groups and labels are equally frequent."""
    cells = np.array(list(product((0, 1), repeat=len(BY_HAND[0]))))
    mass = np.zeros((len(cells), len(BY_HAND), 2))
    for group, label in product(range(len(BY_HAND)), (0, 1)):
        right = np.array(BY_HAND[group])
        mass[:, group, label] = np.where(cells == label, right, 1 - right).prod(1) / (2 * len(BY_HAND))
    return Table(cells, mass)


def _drawn(seed: int) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    calibration, held_out = _table(draw, CALIBRATION), _table(draw, HELD_OUT)
    return {
        "seed": seed,
        "calibration": _numbers(calibration, calibration),
        "held_out": _numbers(calibration, held_out),
    }


def _numbers(fitted_to: Table, on: Table) -> dict[str, dict[str, float]]:
    found = measured(on, predictors(fitted_to, constraint="odds", slack=0.0))
    return {
        name: {
            "accuracy": 1 - one.error,
            "balanced": one.balanced_accuracy,
            "gap": one.gap,
            "average_gap": one.average_gap,
        }
        for name, one in found.items()
    }


def _table(draw: np.random.Generator, count: int) -> Table:
    group, label = draw.integers(0, 2, count), draw.integers(0, 2, count)
    return Table.of(_votes(draw, group, label), label, group, groups=2)


def _votes(draw: np.random.Generator, group: Ints, label: Ints) -> Ints:
    chance = np.array(RIGHT)[group]
    luck = draw.random(chance.shape)
    together = draw.random(len(group)) < TOGETHER
    luck[together] = luck[together][:, :1]
    return np.where(luck < chance, label[:, None], 1 - label[:, None]).astype(np.int64)
