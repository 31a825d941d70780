"""The memory plan of an unlearning job: its data and model's configuration read, nothing else loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import AutoConfig

from expunge.corpus.batching import PairSampler
from expunge.corpus.readers import read_examples
from expunge.corpus.tokenise import Encoded, encode_all
from expunge.errors import RecipeError
from expunge.files import local_folder
from expunge.inference.token_view import OF_REFERENCE, STATES, Need
from expunge.model.checkpoint import reading
from expunge.model.load import load_tokenizer
from expunge.train.methods.unlearn import Unlearn
from expunge.train.run.job import UnlearnJob
from expunge.train.run.own_texts import SELF
from expunge.train.run.plan import (
    Device,
    MemoryPlan,
    Workload,
    chooses_by_name,
    needs_of,
    reads_reference,
    simulate,
    smaller_settings,
)
from expunge.train.run.recipe import load_recipe


@dataclass(frozen=True, kw_only=True)
class PlannedSettings:
    """Settings as ``--set`` takes them, beyond those of the job, and the memory they need."""

    settings: tuple[str, ...]
    memory: MemoryPlan


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """What a job needs, and if that does not fit, what smaller settings need, up to the first that fit.

    ``notes`` say what was not simulated.
    """

    device: Device
    planned: tuple[PlannedSettings, ...]
    notes: tuple[str, ...]

    @property
    def fits(self) -> PlannedSettings | None:
        """The first settings with which a step fits."""
        return next((each for each in self.planned if each.memory.peak <= self.device.usable), None)


def plan_job(job: UnlearnJob, device: Device) -> JobPlan:
    """The memory of the job's largest step on ``device``, by simulation.

    Raises:
        RecipeError: no stage of the recipe is ``unlearn``, the only one that is simulated.
        ModelError: the model's configuration or tokenizer cannot be read.
    """
    stages = load_recipe(job.recipe, job.overrides).stages
    stage = next((each for each in reversed(stages) if isinstance(each, Unlearn)), None)
    if stage is None:
        raise RecipeError(
            f"a plan of recipe {job.recipe}",
            why="none of its stages is 'unlearn', the only one whose memory is simulated.",
            fix="Choose a recipe of losses and scopes (npo_klr, sure, durable), or run without --plan.",
        )
    folder = local_folder(job.model)
    with reading(job.model, "configuration"):
        config: Any = AutoConfig.from_pretrained(
            str(folder or job.model), trust_remote_code=job.trust_remote_code
        )
    work = _workload(job, stage)
    planned = [PlannedSettings(settings=(), memory=simulate(stage, config, work, device))]
    if planned[0].memory.peak > device.usable:
        for settings, smaller in smaller_settings(stage):
            cut = replace(
                work,
                forget_length=min(work.forget_length, smaller.max_length),
                retain_length=min(work.retain_length, smaller.max_length),
                cached_logps=0 if reads_reference(smaller) else work.cached_logps,
                cached_states=0 if reads_reference(smaller) else work.cached_states,
            )
            memory = simulate(smaller, config, cut, device)
            planned.append(PlannedSettings(settings=tuple(settings), memory=memory))
            if memory.peak <= device.usable:
                break
    return JobPlan(device=device, planned=tuple(planned), notes=tuple(_notes(job, stage, len(stages))))


def _workload(job: UnlearnJob, stage: Unlearn) -> Workload:
    tokenizer = load_tokenizer(job.model, trust_remote_code=job.trust_remote_code)
    forget = encode_all(
        read_examples(job.forget, fields=job.fields), tokenizer, max_length=stage.max_length
    )
    retain = forget
    if job.retain and job.retain != SELF:
        retain = encode_all(
            read_examples(job.retain, fields=job.fields), tokenizer, max_length=stage.max_length
        )
    pairs = stage.examples_over(len(forget))
    sampler = PairSampler(len(forget), len(retain), seed=job.seed)
    streams = (
        [forget[index] for index in sampler.forget_seen(pairs)],
        [retain[index] for index in sampler.retain_seen(pairs)],
    )
    has_cache = stage.reference != "copy" and not reads_reference(stage)
    logps = states = 0
    for needs, texts in zip(needs_of(stage), streams, strict=True):
        counted = sum(sum(text.mask[1:]) for text in texts)
        cached = needs & OF_REFERENCE if has_cache else frozenset()
        logps += counted * (Need.REFERENCE_LOGPS in cached)
        states += counted * (bool(cached & STATES) + (Need.REFERENCE_HIDDEN in cached))
    return Workload(
        forget_length=_longest(forget),
        retain_length=_longest(retain),
        cached_logps=logps,
        cached_states=states,
    )


def _longest(texts: Sequence[Encoded]) -> int:
    return max(len(text.input_ids) for text in texts)


def _notes(job: UnlearnJob, stage: Unlearn, stages: int) -> list[str]:
    notes = []
    if stage.adversary is not None:
        notes.append("The adversary's own memory is not simulated.")
    if not chooses_by_name(stage.scope):
        notes.append(
            "The scope chooses by values: every weight is assumed to train, and the gradient it may choose "
            "by is not simulated."
        )
    if stage.retain is not None and (job.retain is None or job.retain == SELF):
        notes.append("The retain texts do not exist yet: they are assumed to be like the forget texts.")
    if stages > 1:
        notes.append("Only the last unlearn stage is simulated.")
    return notes
