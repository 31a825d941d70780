"""Predictors of equal rates, derived from votes by linear programs: before, in or after aggregation.

Shapes: C cells (who voted what), S members, A groups, Y = 2 labels, n items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from expunge.errors import DataError

Constraint = Literal["odds", "opportunity"]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EITHER = 0.5
"""What more than this share of votes says is what all say; of an even number, half is not enough."""


@dataclass(frozen=True)
class Table:
    """How often each cell of votes goes with each group and label; the mass sums to 1."""

    cells_CS: Ints
    mass_CAY: Floats

    @classmethod
    def of(cls, votes: Ints, label: Ints, group: Ints, *, groups: int) -> Self:
        """The table of n items: votes [n, S] and labels of 0 or 1, groups counted from 0.

        Raises:
            DataError: a group has no example of a label, so that its rates are unknown.
        """
        cells, index = np.unique(votes, axis=0, return_inverse=True)
        mass = np.zeros((len(cells), groups, 2))
        np.add.at(mass, (index.reshape(-1), group, label), 1 / len(label))
        empty = np.argwhere(mass.sum(0) == 0)
        if len(empty):
            raise DataError(
                f"group {empty[0][0]}",
                why=f"it has no example with label {empty[0][1]}, so its rates are unknown.",
                fix="Calibrate on examples of every label in every group.",
            )
        return cls(cells, mass)

    @property
    def shares(self) -> Floats:
        """How much of everything is of a group and a label."""
        return np.asarray(self.mass_CAY.sum(0))

    def rates(self, chance_CA: Floats) -> Floats:
        """P(predicted 1 | group, label), [A, Y], where a cell of a group is predicted 1 by chance."""
        return np.asarray((chance_CA[:, :, None] * self.mass_CAY).sum(0) / self.shares)

    def chances(self, predictor: Predictor) -> Floats:
        """What a predictor does with every cell of every group, [C, A]."""
        groups = self.mass_CAY.shape[1]
        groups_of_cells = [np.full(len(self.cells_CS), group) for group in range(groups)]
        return np.stack([predictor(self.cells_CS, group) for group in groups_of_cells], axis=1)


class Predictor(Protocol):
    """The chance of predicting 1, given the votes of each item and its group."""

    def __call__(self, votes: Ints, group: Ints) -> Floats:
        """Votes [n, S] and groups [n] to chances [n]."""


@dataclass(frozen=True)
class MajorityVote:
    """What most members say: no correction."""

    def __call__(self, votes: Ints, group: Ints) -> Floats:  # noqa: ARG002
        """One where more than half of the members say so."""
        return majority(votes).astype(np.float64)


@dataclass(frozen=True)
class PostProcessing:
    """Corrects what most members say: chance_VA for each verdict V and group.

    Source: Hardt et al. 2016 (arXiv 1610.02413), Sec. 4.1.
    """

    chance_VA: Floats

    def __call__(self, votes: Ints, group: Ints) -> Floats:
        """Look the verdict up."""
        return np.asarray(self.chance_VA[majority(votes), group])


@dataclass(frozen=True)
class PreProcessing:
    """Corrects every member for itself, then takes the majority of independent draws: chance_SVA.

    Every member has equal rates; their majority in general has not.
    """

    chance_SVA: Floats

    def __call__(self, votes: Ints, group: Ints) -> Floats:
        """The chance that more than half of the draws are 1, exactly."""
        members = votes.shape[1]
        sums = np.zeros((len(votes), members + 1))
        sums[:, 0] = 1.0
        for member in range(members):
            p = self.chance_SVA[member, votes[:, member], group][:, None]
            sums = sums * (1 - p) + np.roll(sums, 1, axis=1) * p  # the last is 0 before it is rolled
        return np.asarray(sums[:, np.arange(members + 1) > members * EITHER].sum(1))


@dataclass(frozen=True)
class InProcessing:
    """Decides by who voted what: the best that can be made of votes and group.

    A cell that the calibration never met in a group is decided as ``fallback`` decides.
    """

    chance: dict[tuple[tuple[int, ...], int], float]
    fallback: PostProcessing

    def __call__(self, votes: Ints, group: Ints) -> Floats:
        """Look the cell up."""
        otherwise = self.fallback(votes, group)
        keys = [(tuple(cell), int(g)) for cell, g in zip(votes.tolist(), group, strict=True)]
        return np.array([self.chance.get(key, p) for key, p in zip(keys, otherwise, strict=True)])


def majority(votes: Ints) -> Ints:
    """1 where more than half of the members say 1."""
    return np.asarray(votes.mean(1) > EITHER).astype(np.int64)


def fit_after(table: Table, *, constraint: Constraint = "odds", slack: float = 0.0) -> PostProcessing:
    """The best correction of the majority's verdict."""
    return PostProcessing(_fit(_by(table, majority(table.cells_CS), 2), table.shares, constraint, slack))


def fit_before(table: Table, *, constraint: Constraint = "odds", slack: float = 0.0) -> PreProcessing:
    """The best correction of each member for itself."""
    fitted = [
        _fit(_by(table, table.cells_CS[:, member], 2), table.shares, constraint, slack)
        for member in range(table.cells_CS.shape[1])
    ]
    return PreProcessing(np.stack(fitted))


def fit_within(table: Table, *, constraint: Constraint = "odds", slack: float = 0.0) -> InProcessing:
    """The best decision by cells: never worse than ``fit_after`` on what both were fitted to."""
    chance_CA = _fit(table.mass_CAY, table.shares, constraint, slack)
    met = table.mass_CAY.sum(2) > 0
    chance = {
        (tuple(cell), group): float(chance_CA[index, group])
        for index, cell in enumerate(table.cells_CS.tolist())
        for group in range(chance_CA.shape[1])
        if met[index, group]
    }
    return InProcessing(chance, fit_after(table, constraint=constraint, slack=slack))


def _by(table: Table, coarse_C: Ints, count: int) -> Floats:
    """The mass [V, A, Y] of cells put together."""
    mass = np.zeros((count, *table.mass_CAY.shape[1:]))
    np.add.at(mass, coarse_C, table.mass_CAY)
    return mass


def _fit(mass_CAY: Floats, share_AY: Floats, constraint: Constraint, slack: float) -> Floats:
    """Chances [C, A] of the smallest error whose rates differ between groups by ``slack`` at most.

    Minimises the share of all items that are wrong, so that groups weigh as much as they have items.
    Variables: the chances, then for each label a rate that every group's lies around.
    """
    cells, groups, _ = mass_CAY.shape
    cost = np.concatenate([(mass_CAY[:, :, 0] - mass_CAY[:, :, 1]).reshape(-1), np.zeros(2)])
    rows = []
    for label in (1,) if constraint == "opportunity" else (0, 1):
        for group in range(groups):
            row = np.zeros((cells, groups))
            row[:, group] = mass_CAY[:, group, label] / share_AY[group, label]
            middle = np.zeros(2)
            middle[label] = -1.0
            rows.append(np.concatenate([row.reshape(-1), middle]))
    limits = np.array([*rows, *(-row for row in rows)])
    solution: Any = linprog(
        cost, A_ub=limits, b_ub=np.full(len(limits), slack / 2), bounds=(0, 1), method="highs"
    )
    if not solution.success:  # constant predictors always satisfy it: only numbers that are none get here
        raise DataError("the votes", why=f"no predictor was found: {solution.message}.", fix="Check them.")
    chance: Floats = np.clip(solution.x[:-2].reshape(cells, groups), 0.0, 1.0)
    return chance


class Fairness(NamedTuple):
    """What a predictor does on a table, in expectation: error, balanced accuracy, rates and their gaps."""

    error: float
    balanced_accuracy: float
    true_positives: Sequence[float]
    false_positives: Sequence[float]
    gap: float
    average_gap: float


def fairness(table: Table, predictor: Predictor) -> Fairness:
    """Measured from chances and not from one draw.

    ``gap``: the larger of the two differences between groups, of true and of false positive rates;
    ``average_gap``: their mean.
    """
    rates_AY = table.rates(table.chances(predictor))
    share = table.shares
    error = (share[:, 1] * (1 - rates_AY[:, 1]) + share[:, 0] * rates_AY[:, 0]).sum()
    overall_Y = (share * rates_AY).sum(0) / share.sum(0)
    gaps = rates_AY.max(0) - rates_AY.min(0)
    return Fairness(
        error=float(error),
        balanced_accuracy=float((overall_Y[1] + 1 - overall_Y[0]) / 2),
        true_positives=rates_AY[:, 1].tolist(),
        false_positives=rates_AY[:, 0].tolist(),
        gap=float(gaps.max()),
        average_gap=float(gaps.mean()),
    )
