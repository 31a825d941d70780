"""What a plan is: how examples were dealt out, what every shard begins with and how it is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from expunge.component import Component, Epochs
from expunge.record import hash_json
from expunge.scope.lora import LowRankAdapters
from expunge.shards.plan import ExampleRow, SplitSettings, epochs_of_slices


class Training(Component):
    """How a shard is trained, slice after slice.

    The schedule is that of each slice: one over the whole shard would let early slices depend on what
    lies in later ones.
    """

    epochs: Epochs = Field(
        default=20, description="Passes over the data, counted as if there were no slices."
    )
    learning_rate: PositiveFloat = Field(default=1e-4, description="Peak learning rate.")
    batch_size: PositiveInt = Field(default=8, description="Examples per optimizer step.")
    piece: PositiveInt = Field(default=8, description="Sequences that are computed at once.")
    max_length: Annotated[int, Field(ge=8)] = Field(
        default=512,
        description="The most tokens of a sequence; longer documents are cut, longer pairs refused.",
    )
    weight_decay: NonNegativeFloat = Field(default=0.0, description="Decoupled weight decay of AdamW.")
    max_grad_norm: PositiveFloat = Field(
        default=1.0, description="The norm to which gradients are clipped."
    )
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=(0.9, 0.999), description="Decay rates of AdamW's two moments, each at least 0 and below 1."
    )
    schedule: Literal["constant", "linear"] = Field(
        default="constant",
        description="Whether the learning rate is constant, or falls linearly to zero within each slice.",
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Steps over which the learning rate rises linearly from 0."
    )
    lora: LowRankAdapters | None = Field(
        default=None,
        description=(
            "Adapters that alone are trained, on a start that all shards share; null: all weights are."
        ),
    )


class Start(Component):
    """The checkpoint every shard begins with: its folder, and the SHA-256 of weights and tokenizer."""

    folder: Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
    weights: str
    tokenizer: str


class Manifest(Component):
    """A plan as it is written down; it never changes, deletions stand in the ledger."""

    cut: SplitSettings
    training: Training
    start: Start
    rows: tuple[ExampleRow, ...]

    @model_validator(mode="after")
    def _every_slice_is_trained(self) -> Manifest:
        epochs_of_slices(self.training.epochs, self.cut.slices)
        return self

    @model_validator(mode="after")
    def _rows_fit_the_cut(self) -> Manifest:
        outside = [r.id for r in self.rows if r.shard >= self.cut.shards or r.slice >= self.cut.slices]
        if outside:
            raise ValueError(f"row {outside[0]!r} lies outside of the shards and slices")
        if len({row.id for row in self.rows}) != len(self.rows):
            raise ValueError("two rows have the same id")
        missing = set(range(self.cut.shards)) - {row.shard for row in self.rows}
        if missing:
            raise ValueError(f"shard {min(missing)} has no rows")
        return self

    @property
    def sha256(self) -> str:
        """The hash that the ledger's first entry holds."""
        return hash_json(self.model_dump(mode="json"))

    @property
    def recipe_sha256(self) -> str:
        """The hash of all that decides on weights beside the examples themselves."""
        facts = self.model_dump(mode="json")
        dealt = {name: facts["cut"][name] for name in ("shards", "slices", "seed")}
        begun = {name: facts["start"][name] for name in ("weights", "tokenizer")}
        return hash_json([dealt, begun, facts["training"]])

    def key(self, shard: int, piece: int, contents: list[list[str]]) -> str:
        """The name of the weights after slice ``piece``, given what slices up to it hold.

        Two runs that would train the same weights have the same key: a checkpoint that has seen
        anything else is never taken for another.
        """
        return hash_json([self.recipe_sha256, shard, [sorted(held) for held in contents[: piece + 1]]])
