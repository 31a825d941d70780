"""What the study compares: every arm differs from its neighbours in one ingredient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from expunge.bench.builtin import Builtin
from expunge.corpus.synthetic import WorldSize
from expunge.model.create import ScratchModel

Weights = Literal["bf16", "fp32", "bf16_stochastic", "lora"]
"""What is trained: weights of that precision, or low-rank adapters in fp32 that are merged at the end."""

METHODS = ("ga", "ga_gdr", "ga_klr", "npo", "npo_gdr", "npo_klr")
RETAINING = tuple(method for method in METHODS if "_" in method)
SEEDS = (0, 1, 2)
SMALL, MIDDLE, LARGE = 2e-5, 4e-5, 1.6e-4
"""bf16 weights move below 2^-7 at the small rate: inside the zero bucket of int4 per row on these models,
where the published 1e-5 puts 7B models; at the middle rate below 2^-6: inside that of int4 per tensor.
The large rate is eight times the small one; SURE's is ten times the published."""
RATES = (SMALL, MIDDLE, 8e-5, LARGE)
WIDTHS = (128,)

BLOCKS = ("scope.name=regex", r"scope.pattern=\.(self_attn|mlp)\.")
MASK = ("scope.name=saliency", "scope.granularity=sublayer", "scope.percentile=50")
ADAPTERS = ("scope.name=lora", "scope.rank=16", "scope.alpha=32")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One unlearning run. ``mask``: only the more salient half of the sub-layers may change (SURE)."""

    method: str
    weights: Weights = "fp32"
    rate: float = SMALL
    mask: bool = False
    seed: int = 0
    width: int = 256

    @property
    def cell(self) -> str:
        """Its name without the seed."""
        mask = "-mask" if self.mask else ""
        width = "" if self.width == 256 else f"-h{self.width}"
        return f"{self.method}-{self.weights}-{self.rate:g}{mask}{width}"

    @property
    def world(self) -> Replicate:
        """The world and models it starts from."""
        return Replicate(seed=self.seed, width=self.width)

    @property
    def overrides(self) -> tuple[str, ...]:
        """What is set in the method's recipe."""
        quick = self.rate > SMALL
        every = 2 if quick else 10
        scope = MASK if self.mask else ADAPTERS if self.weights == "lora" else BLOCKS
        retain = ("retain.weight=1",) if self.method in RETAINING else ()
        return (
            *scope,
            *retain,
            f"learning_rate={self.rate:g}",
            f"precision={'fp32' if self.weights == 'lora' else self.weights}",
            f"epochs={100 if quick else 120}",
            "max_length=256",
            "append_eos=false",
            "stop.forget_at_most=30",
            f"stop.every={every}",
            f"save_every={every}",
        )


@dataclass(frozen=True, kw_only=True)
class Replicate:
    """A world of its own, and the models of one width that were trained on it."""

    seed: int
    width: int = 256
    home: Path | None = field(default=None, compare=False)

    @property
    def builtin(self) -> Builtin:
        """Heavy-tailed weights of standard deviation 1/(2 sqrt(width)), as trained models have tails."""
        spread = round(0.5 / self.width**0.5, 4)
        return Builtin(
            world=WorldSize(seed=self.seed),
            model=ScratchModel(hidden=self.width, initializer_range=spread, tails="laplace"),
            seed=self.seed,
            home=self.home,
        )


def arms() -> list[Arm]:
    """Every arm once, seed by seed, so that a study cut short is a smaller study."""
    here = dict.fromkeys([*_table(), *_factors()])
    return [replace(arm, seed=seed) for seed in SEEDS for arm in here] + list(_widths())


def _table() -> Iterator[Arm]:
    """The paper's layout: six methods, and SURE on the four that retain; as published, and in fp32."""
    for weights in ("bf16", "fp32"):
        for method in METHODS:
            yield Arm(method=method, weights=weights)
        for method in RETAINING:
            yield Arm(method=method, weights=weights, rate=LARGE, mask=True)
    for method in RETAINING:
        yield Arm(method=method, weights="bf16", rate=MIDDLE)


def _factors() -> Iterator[Arm]:
    """One method, NPO with KL: rate x precision, and the mask at either end of the rates."""
    for weights in ("bf16", "fp32", "bf16_stochastic", "lora"):
        for rate in (SMALL, LARGE):
            yield Arm(method="npo_klr", weights=weights, rate=rate)
            if weights in ("bf16", "fp32"):
                yield Arm(method="npo_klr", weights=weights, rate=rate, mask=True)
    for rate in RATES:
        yield Arm(method="npo_klr", weights="bf16", rate=rate)


def _widths() -> Iterator[Arm]:
    """Another width, in one world: only the curve of returns needs it."""
    for width in WIDTHS:
        for weights in ("bf16", "fp32"):
            yield Arm(method="npo_klr", weights=weights, width=width)
