"""The memory that a run will need, found by taking one of its steps on tensors without storage.

Shapes: B texts of a piece of a step, T tokens, H hidden units, N counted tokens.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
import torch
from pydantic import ValidationError
from torch import Generator, Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker, _MemRefType
from torch.nn import functional
from transformers import PretrainedConfig

from expunge.inference.logprobs import CHUNK_ELEMENTS, Numbers, Rows
from expunge.inference.token_view import INNER, LOGITS, OF_REFERENCE, STATES, Need
from expunge.model.arch import auto_class, backbone, output_layer, vocabulary
from expunge.model.precision import SMALLEST, Moments, RoundedAdamW, has_native_bf16
from expunge.model.resources import GIB
from expunge.scope import Scope
from expunge.scope.by_name import AllParameters, MatchingNames, MLPOut
from expunge.scope.lora import LowRankAdapters
from expunge.train.methods.unlearn import Unlearn

USABLE = 0.9
"""The share of a device's memory that is planned with: the rest goes to its context and to gaps."""

PARTS = {
    "Parameter": "weights",
    "Buffer": "weights",
    "Gradient": "gradients",
    "Optstate": "optimizer states",
    "Activation": "activations",
    "Temp": "activations",
    "Other": "frozen copies",
}
"""What ``MemTracker`` calls the parts, and what they are called here."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """What a run is planned for: whether it is a GPU, and its memory in bytes."""

    is_gpu: bool
    memory: int

    @classmethod
    def here(cls) -> Device:
        """The accelerator of this machine, or its processor with the memory that is free."""
        if torch.cuda.is_available():
            return cls(is_gpu=True, memory=torch.cuda.mem_get_info()[1])
        return cls(is_gpu=False, memory=psutil.virtual_memory().available)

    @property
    def usable(self) -> int:
        """Bytes a run may take."""
        return int(USABLE * self.memory)

    @property
    def has_bf16(self) -> bool:
        """Whether bfloat16 products run in hardware."""
        return self.is_gpu or has_native_bf16(torch.device("cpu"))


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a step reads: tokens of the longest forget and retain text; and counted tokens to be cached."""

    forget_length: int
    retain_length: int
    cached_logps: int = 0
    cached_states: int = 0


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes by part at the moment at which a step takes most, and of the cache on disk."""

    parts: dict[str, int]
    on_disk: int

    @property
    def peak(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values())

    @property
    def gib(self) -> dict[str, float]:
        """GiB by part."""
        return {name: round(size / GIB, 2) for name, size in self.parts.items()}


def simulate(stage: Unlearn, config: PretrainedConfig, work: Workload, device: Device) -> MemoryPlan:
    """The memory of a step of ``stage`` on a model of ``config``, without loading or computing anything.

    What is simulated is the model as transformers builds it, adapters, gradient checkpoints, optimizer and
    the logits in pieces. Where blocks are alike, a deep model is simulated at two depths, and the
    optimizer's step and the loss with its gradients, each linear in depth, are continued to its own.
    Not counted: an adversary, the gradient behind a saliency scope (which is also assumed to leave every
    weight free), a generation for a stop rule, the device's own context.
    """
    for signed in (True, False):  # code books are computed once, from values
        Moments.of(stage.optimizer).new(torch.zeros(SMALLEST), signed=signed)
    depth = config.num_hidden_layers
    if depth <= DEPTHS[1] or not _treats_blocks_alike(stage.scope):
        phases = _peaks(stage, config, work, device)
    else:
        low, high = (_peaks(stage, _cut(config, layers), work, device) for layers in DEPTHS)
        times = (depth - DEPTHS[0]) / (DEPTHS[1] - DEPTHS[0])
        phases = [
            {name: round(few[name] + times * (many[name] - few[name])) for name in few}
            for few, many in zip(low, high, strict=True)
        ]
    narrow = stage.reference_dtype == "bf16" or (stage.precision != "fp32" and device.has_bf16)
    row = (2 if narrow else 4) * config.hidden_size
    on_disk = 4 * work.cached_logps + row * work.cached_states
    return MemoryPlan(parts=max(phases, key=lambda parts: sum(parts.values())), on_disk=on_disk)


DEPTHS = (4, 6)
"""Numbers of blocks at which deep models are simulated."""


def _cut(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    shorter = copy.deepcopy(config)
    shorter.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        shorter.layer_types = config.layer_types[:layers]
    return shorter


def _peaks(
    stage: Unlearn, config: PretrainedConfig, work: Workload, device: Device
) -> list[dict[str, int]]:
    """The parts at the peak of the optimizer's step, and at that of the loss and its gradients."""
    model = _model(stage, config, device)
    with FakeTensorMode():
        _simulate_storage(model)
        names = _free_weights(stage, model)
        tracker = PeakTracker()
        for name, weight in model.named_parameters():
            weight.requires_grad_(name in names)
            if name in names:
                weight.register_post_accumulate_grad_hook(tracker.note_gradient)
        copies = _frozen_copies(stage, model, names)  # named, so that they live to the end
        tracker.track_external(model, *copies)
        with tracker:
            _optimizer_step(stage, model, tracker, foreach=device.is_gpu)
            step = tracker.take_peak()
            narrow = stage.precision == "fp32" and device.is_gpu
            with torch.autocast("cpu", dtype=torch.bfloat16) if narrow else nullcontext():
                loss = _loss_of_step(stage, model, work)
            loss.backward()
        return [step, tracker.take_peak()]


class PeakTracker(MemTracker):
    """Tracks the peak of all modules together, which is many times faster than that of each of them."""

    def _pre_fw_hook(self, module: nn.Module, inputs: Any) -> None:
        if not self._mod_tracker.is_bw:  # a module that is called again is not a second iteration here
            self.memory_tracking.pop(module, None)
        super()._pre_fw_hook(module, inputs)

    def _track_module_params_and_buffers(
        self,
        module: nn.Module,
        install_grad_hooks: bool = True,  # noqa: ARG002
    ) -> tuple[int, int]:
        # Its hooks cannot be put on weights that do not train; ``note_gradient`` is the hook here.
        return super()._track_module_params_and_buffers(module, install_grad_hooks=False)

    def note_gradient(self, weight: Tensor) -> None:
        """Count the gradient of ``weight`` as one."""
        if weight.grad is not None:
            self._update_and_maybe_create_winfos(weight.grad, _MemRefType.GRAD)

    def _update_peak_stats(self, _: Any) -> None:
        for device, snapshot in self._curr_mem_snap.items():
            if self._peak_mem.get(device, 0) < snapshot["Total"]:
                self._peak_mem[device] = snapshot["Total"]
                self._peak_mem_snap[device] = dict(snapshot)

    def take_peak(self) -> dict[str, int]:
        """Bytes by part at the peak since the last call."""
        parts = dict.fromkeys(PARTS.values(), 0)
        for snapshot in self._peak_mem_snap.values():
            for kind, size in snapshot.items():
                name = getattr(kind, "value", "")
                if name in PARTS:
                    parts[PARTS[name]] += size
        self._peak_mem.clear()
        self._peak_mem_snap.clear()
        return parts

    @contextmanager
    def optimizer_step(self) -> Iterator[None]:
        """Whatever is allocated inside belongs to the optimizer."""
        self._in_opt = True
        yield
        self._in_opt = False


def _model(stage: Unlearn, config: PretrainedConfig, device: Device) -> nn.Module:
    """The model with its adapters, on the device without storage."""
    narrow = stage.precision != "fp32" and device.has_bf16
    with torch.device("meta"):
        model = auto_class(config).from_config(config, dtype=torch.bfloat16 if narrow else torch.float32)
        if stage.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        prepared: nn.Module = stage.scope.prepare(model).train()
    return prepared


def _simulate_storage(model: nn.Module) -> None:
    """Put simulated tensors in place of all parameters and buffers; tied ones stay tied."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        slots: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for tensors in slots:
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    made[id(tensor)] = nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
                tensors[name] = made[id(tensor)]


def chooses_by_name(scope: Scope) -> bool:
    """Whether a scope names what may change without looking at any value."""
    return type(scope) in {AllParameters, MatchingNames, MLPOut, LowRankAdapters}


def _treats_blocks_alike(scope: Scope) -> bool:
    return not isinstance(scope, MLPOut) and not re.search(r"\d", getattr(scope, "pattern", ""))


def _free_weights(stage: Unlearn, model: nn.Module) -> set[str]:
    if chooses_by_name(stage.scope):
        return set(stage.scope.select(model, dict).rows)
    return {
        name
        for name, _ in model.named_parameters()
        if ".lora_" in name or not isinstance(stage.scope, LowRankAdapters)
    }


def reads_reference(stage: Unlearn) -> bool:
    """Whether the reference is the model itself with its adapters off."""
    return isinstance(stage.scope, LowRankAdapters) and stage.reference in {"auto", "adapter_off"}


def needs_of(stage: Unlearn) -> tuple[frozenset[Need], frozenset[Need]]:
    """What the forget and the retain loss ask for."""
    return stage.forget.needs, stage.retain.needs if stage.retain else frozenset()


def _frozen_copies(stage: Unlearn, model: nn.Module, names: set[str]) -> list[Tensor]:
    asked = frozenset().union(*needs_of(stage))
    if stage.reference == "copy" and asked & OF_REFERENCE:
        return [torch.empty_like(weight) for weight in model.parameters()]
    head = set(output_layer(model).parameters())
    may_change = any(name in names and weight in head for name, weight in model.named_parameters())
    cached = bool(asked & OF_REFERENCE) and not reads_reference(stage)
    return [torch.empty_like(weight) for weight in head] if may_change and cached else []


class _SimulatedAdamW(RoundedAdamW):
    """Its step number and random numbers are none: simulated tensors have no values."""

    def _next_step(self, state: dict[str, Any]) -> int:  # noqa: ARG002
        return 1

    def _generator(self, device: torch.device, step: int, index: int) -> Generator:  # noqa: ARG002
        return Generator()


def _optimizer_step(stage: Unlearn, model: nn.Module, tracker: PeakTracker, *, foreach: bool) -> None:
    """A step on gradients of zeros, which leaves the moments; gradients stay where pieces are added up."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
        tracker.note_gradient(weight)
    if stage.precision == "fp32" and stage.optimizer == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(weights, foreach=foreach)
    else:
        optimizer = _SimulatedAdamW(weights, lr=1e-5, precision=stage.precision, moments=stage.optimizer)
    with tracker.optimizer_step():
        optimizer.step()
    model._optimizer_of_the_plan = [optimizer]  # type: ignore[assignment]  # lives as long as the model
    if stage.accumulation == 1:
        model.zero_grad(set_to_none=True)


def _loss_of_step(stage: Unlearn, model: nn.Module, work: Workload) -> Tensor:
    batch = stage.batch_size // stage.accumulation
    forget, retain = needs_of(stage)
    losses = [_loss(stage, model, forget, batch, work.forget_length, reads_tokens=True)]
    if stage.retain is not None:
        reads_tokens = not retain & (STATES | LOGITS | INNER)
        losses.append(_loss(stage, model, retain, batch, work.retain_length, reads_tokens=reads_tokens))
    return torch.stack(losses).sum()


def _loss(
    stage: Unlearn, model: nn.Module, needs: frozenset[Need], batch: int, length: int, *, reads_tokens: bool
) -> Tensor:
    """A number that is computed from as large tensors as the loss is."""
    ids_BT = torch.zeros((batch, length), dtype=torch.long)
    reference_NH = None
    if needs & OF_REFERENCE and reads_reference(stage):
        with torch.no_grad():
            reference_NH = _states(model, ids_BT)
    hidden_NH = _states(model, ids_BT)
    reference_NH = torch.zeros_like(hidden_NH) if reference_NH is None else reference_NH
    head, entries = _head(model), vocabulary(model)
    terms = [hidden_NH.float().sum()] if needs & INNER else []
    if reads_tokens or needs & LOGITS:
        rows = Rows(head=head, rule=_first, vocabulary=entries, block=CHUNK_ELEMENTS)
        terms.append(rows(hidden_NH, ids_BT[:, 1:].reshape(-1)).sum())
    if needs & STATES:
        rows = Rows(head=head, rule=_first, vocabulary=entries, block=CHUNK_ELEMENTS, extra_inputs=head)
        terms.append(rows(hidden_NH, reference_NH).sum())
    return torch.stack(terms).sum()


def _head(model: nn.Module) -> Callable[[Tensor], Tensor]:
    # Not called as a module: the tracker's hooks there fail where pieces are differentiated at once.
    return partial(functional.linear, weight=output_layer(model).get_parameter("weight"))


def _states(model: nn.Module, ids_BT: Tensor) -> Tensor:
    output = backbone(model)(input_ids=ids_BT, use_cache=False)
    states: Tensor = output.last_hidden_state[:, :-1].flatten(0, 1)
    return states


def _first(logits_kV: Tensor, _: Tensor) -> Numbers:
    return Numbers(logits_kV[:, 0], lambda: logits_kV)


# Settings that need less, in the order in which they cost something.


def smaller_settings(stage: Unlearn) -> Iterator[tuple[list[str], Unlearn]]:
    """Further settings, each with those before it: as ``--set`` takes them, and the stage they make.

    Smaller pieces and checkpoints give the same losses; then come rounding, adapters and shorter texts.
    """
    rungs: list[dict[str, Any]] = [
        {"accumulation": stage.batch_size},
        {"gradient_checkpointing": True},
        {"precision": "bf16_stochastic", "optimizer": "adamw_8bit"},
        {"scope": {"name": "lora"}},
        {"max_length": max(8, stage.max_length // 4)},
    ]
    chosen: dict[str, Any] = {}
    for rung in rungs:
        changed = {name: value for name, value in rung.items() if not _has(stage, name, value)}
        if not changed:
            continue
        try:
            made = Unlearn.model_validate(stage.model_dump(mode="json") | chosen | changed)
        except ValidationError:  # an adversary that needs float32, say
            continue
        chosen |= changed
        yield [f"{name}={_written(value)}" for name, value in chosen.items()], made


def _has(stage: Unlearn, name: str, value: Any) -> bool:
    if name == "scope":
        return isinstance(stage.scope, LowRankAdapters)
    return bool(getattr(stage, name) == value)


def _written(value: Any) -> str:
    return "{name: lora}" if isinstance(value, dict) else str(value).lower()
