"""Sequential calibration: blocks quantized in order, each on the outputs of the quantized ones before.

Only the hidden states between two blocks and the statistics of one block are in memory. Who reads the
statistics may change the block's weights before it asks for the next block, which then sees their effect.
Shapes: N sequences, T tokens, B sequences of a batch, H hidden units, I inputs of a linear layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from expunge.errors import ModelError
from expunge.inference.backbone import eval_mode
from expunge.model.arch import architecture, backbone, blocks, linear_layers, weight_oi
from expunge.quant.base import Replacement
from expunge.quant.calibration import require_calibration
from expunge.quant.folding import folds
from expunge.quant.grid import Granularity, Grid, ScaleMode
from expunge.quant.rtn import GridQuantizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from expunge.quant.base import Quantized
    from expunge.quant.calibration import Calibration

BATCH_TOKENS = 1024
"""Tokens a block is given at once."""


@dataclass(slots=True, kw_only=True)
class Inputs:
    """What layers that read the same tensor were given.

    ``gram_II``: the sum of x xᵀ over all positions; ``size_I``: the mean of |x|. Both float32.
    """

    layers: dict[str, nn.Module]
    gram_II: Tensor
    size_I: Tensor


class BlockInputs(NamedTuple):
    """What a block gets in addition to the hidden states: masks, positions."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Reached(Exception):  # noqa: N818 - no error: the first block is as far as the model is read
    pass


@torch.no_grad()
def sequential_inputs(model: nn.Module, ids_NT: Tensor) -> Generator[list[Inputs], None, None]:
    """The inputs of every block's linear layers, first block to last, each layer in one of the lists.

    Raises:
        ModelError: the model computes numbers that are not finite.
    """
    batches = ids_NT.to(next(model.parameters()).device).split(max(1, BATCH_TOKENS // ids_NT.shape[1]))
    layers = linear_layers(model)
    prefix = architecture(model).blocks
    with eval_mode(model):
        entries = {
            len(batch): _entries(model, batch) for batch in {len(one): one for one in batches}.values()
        }
        states = [_first_state(model, batch) for batch in batches]
        for index, block in enumerate(blocks(model)):
            block_layers = {
                name: layer for name, layer in layers.items() if name.startswith(f"{prefix}.{index}.")
            }

            def forward(state_BTH: Tensor, block: nn.Module = block, index: int = index) -> Tensor:
                entry = entries[len(state_BTH)][index]
                return _tensor(block(state_BTH, *entry.args, **entry.kwargs))

            yield _observed(block_layers, states, forward)
            if index + 1 < len(blocks(model)):
                for index_of_batch, state_BTH in enumerate(states):
                    states[index_of_batch] = forward(state_BTH)


def _observed(
    layers: dict[str, nn.Module], states: list[Tensor], forward: Callable[[Tensor], Tensor]
) -> list[Inputs]:
    reader = _Reader()
    with reader.listening(layers):
        for state_BTH in states:
            reader.start()
            forward(state_BTH)
    positions = sum(state_BTH.shape[0] * state_BTH.shape[1] for state_BTH in states)
    groups = list(reader.groups.values())
    for inputs in groups:
        inputs.size_I /= positions
        if not torch.isfinite(inputs.gram_II).all():
            raise ModelError(
                f"what {next(iter(inputs.layers))} is given is not finite",
                why="the model's activations overflow on the calibration text.",
                fix="Check the checkpoint, or load it in bf16 or fp32.",
            )
    read = {name for inputs in groups for name in inputs.layers}
    return groups + [_unread(name, layer) for name, layer in layers.items() if name not in read]


class _Reader:
    """Sums up what layers are given; those given the very same tensor share one sum."""

    def __init__(self) -> None:
        self.groups: dict[str, Inputs] = {}
        self._leader: dict[str, str] = {}
        self._tensors: dict[int, tuple[Tensor, str]] = {}

    def start(self) -> None:
        """A new batch: forget which tensor is which."""
        self._tensors.clear()

    @contextmanager
    def listening(self, layers: dict[str, nn.Module]) -> Iterator[None]:
        """Hear of every input of ``layers`` inside the block."""
        with ExitStack() as hooks:
            for name, layer in layers.items():
                handle = layer.register_forward_pre_hook(self._hook(name))
                hooks.callback(handle.remove)
            yield

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hear(layer: nn.Module, args: tuple[Any, ...]) -> None:
            x: Tensor = args[0]
            if name not in self._leader:
                # Kept until the batch ends: the address of a tensor that is gone may be used again.
                self._leader[name] = self._tensors.setdefault(id(x), (x, name))[1]
                self._group(name, layer, x)
            if self._leader[name] == name:
                self._add(self.groups[name], x)

        return hear

    def _group(self, name: str, layer: nn.Module, x: Tensor) -> None:
        leader = self._leader[name]
        if leader == name:
            wide = x.new_zeros(x.shape[-1], x.shape[-1], dtype=torch.float32)
            self.groups[name] = Inputs(layers={}, gram_II=wide, size_I=wide.new_zeros(x.shape[-1]))
        self.groups[leader].layers[name] = layer

    @staticmethod
    def _add(inputs: Inputs, x: Tensor) -> None:
        x_PI = x.reshape(-1, x.shape[-1]).float()
        inputs.gram_II.addmm_(x_PI.t(), x_PI)
        inputs.size_I += x_PI.abs().sum(0)


def _unread(name: str, layer: nn.Module) -> Inputs:
    """A layer the forward pass never calls: nothing is known of its inputs."""
    width = weight_oi(layer).shape[1]
    nothing = weight_oi(layer).new_zeros(width, width, dtype=torch.float32)
    return Inputs(layers={name: layer}, gram_II=nothing, size_I=nothing[0].clone())


def _entries(model: nn.Module, batch_BT: Tensor) -> list[BlockInputs]:
    """What every block is given for batches of this size; sequences have one length and no padding."""
    batches: list[BlockInputs] = []

    def hear(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        batches.append(BlockInputs(args[1:], kwargs))

    with ExitStack() as hooks:
        for block in blocks(model):
            hooks.callback(block.register_forward_pre_hook(hear, with_kwargs=True).remove)
        backbone(model)(batch_BT, use_cache=False)
    return batches


def _first_state(model: nn.Module, batch_BT: Tensor) -> Tensor:
    """The hidden states the first block is given."""
    states: list[Tensor] = []

    def hear(_: nn.Module, args: tuple[Any, ...]) -> None:
        states.append(args[0])
        raise _Reached

    handle = blocks(model)[0].register_forward_pre_hook(hear)
    try:
        backbone(model)(batch_BT, use_cache=False)
    except _Reached:
        return states[0]
    finally:
        handle.remove()
    raise ModelError(
        f"{type(model).__name__} did not reach its first block",
        why="it computes its hidden states in a way that is not known here.",
        fix="Use a release of transformers this package supports.",
    )


def _tensor(output: Any) -> Tensor:
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


# What quantizers have in common that look at the inputs of the layers they round.


class CalibratedQuantizer(GridQuantizer, ABC):
    """Rounds block after block, each on what it is given once the blocks before it are rounded."""

    calibrated: ClassVar[bool] = True
    short: ClassVar[str]
    """The name before the bits in labels."""

    bits: int = Field(default=4, ge=2, le=8, description="Bits per weight, 2-8.")
    group_size: int | None = Field(
        default=None, ge=1, description="Inputs of a row that share a step; null: the whole row."
    )
    scale: ScaleMode = Field(
        default="sym_half",
        description=(
            "How the step follows from the weights of a block: `sym_restricted`, `sym_full`, "
            "`sym_half` or `paper` (symmetric), or `asymmetric` with a zero point."
        ),
    )

    @field_validator("scale")
    @classmethod
    def _can_be_stored(cls, scale: ScaleMode) -> ScaleMode:
        if scale == "paper":
            raise ValueError("the published grid has one level more than its bits can store")
        return scale

    @abstractmethod
    def decide(
        self, weights: Mapping[str, Tensor], inputs: Inputs, *, foldable: bool
    ) -> dict[str, Quantized]:
        """What the weights [O, I] of layers that read the same tensor become, by name.

        ``foldable``: a factor of each of their inputs can be taken over by what computes the inputs.
        """

    @property
    def grid(self) -> Grid:
        """The grid weights are rounded on."""
        granularity: Granularity = "row" if self.group_size is None else "group"
        return Grid(bits=self.bits, granularity=granularity, group_size=self.group_size, mode=self.scale)

    @property
    def label(self) -> str:
        """For instance ``gptq4``, ``gptq4-g128``, ``gptq4-g128-asymmetric:damping=0.1``."""
        fields = type(self).model_fields
        group = f"-g{self.group_size}" if self.group_size else ""
        scale = f"-{self.scale}" if self.scale != fields["scale"].default else ""
        usual = {"bits", "group_size", "scale"}
        others = [
            f"{name}={str(value).lower()}"
            for name in fields
            if name not in usual and (value := getattr(self, name)) != fields[name].default
        ]
        return f"{self.short}{self.bits}{group}{scale}" + (f":{','.join(others)}" if others else "")

    @property
    def where(self) -> str:
        """What shares a step, in words."""
        return f"{self.group_size} inputs of a row" if self.group_size else "output row"

    @torch.no_grad()
    def replacements(
        self, model: nn.Module, calibration: Calibration | None
    ) -> Generator[Replacement, None, None]:
        """The new weights, block by block; see ``Quantizer.replacements``."""
        ids_NT = require_calibration(self.label, calibration).ids_NT
        seen: set[nn.Parameter] = set()
        can_fold = {frozenset(fold.layers) for fold in folds(model)}
        with closing(sequential_inputs(model, ids_NT)) as blocks:
            for groups in blocks:
                while groups:  # each Gram matrix is let go once its layers are decided
                    yield from self._decided(groups.pop(0), seen, can_fold)

    def _decided(
        self, inputs: Inputs, seen: set[nn.Parameter], can_fold: set[frozenset[str]]
    ) -> Iterator[Replacement]:
        fresh = {}
        for name, layer in inputs.layers.items():
            parameter = layer.get_parameter("weight")
            if parameter not in seen:
                seen.add(parameter)
                fresh[name] = weight_oi(layer).detach()
        if fresh:
            foldable = frozenset(inputs.layers) in can_fold and len(fresh) == len(inputs.layers)
            for name, weight in self.decide(fresh, inputs, foldable=foldable).items():
                yield Replacement(name, inputs.layers[name], weight)
