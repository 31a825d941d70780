"""Leave-one-out ensembles, first step: the predictions of models that never saw a text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from transformers import AutoModelForCausalLM

from expunge.component import MAX_DRAWS, Component
from expunge.corpus.checks import normalised
from expunge.corpus.tokenise import encode
from expunge.errors import DataError, ModelError
from expunge.inference.reference import Target
from expunge.model.load import save_model
from expunge.shards.building import Build
from expunge.shards.ensemble import Ensemble, open_ensemble
from expunge.shards.executors import executor_for
from expunge.shards.folder import PlanFolder, Training
from expunge.shards.making import PlanJob, hash_tokenizer, make_plan
from expunge.shards.plan import SplitSettings, content_of, near_duplicates
from expunge.train.methods import DataNeed, Stage, stages
from expunge.train.run.state import Corpus, State
from expunge.types import Example


def owners_of(plan: PlanFolder, examples: Sequence[Example]) -> list[set[int]]:
    """For each example the shards that hold it, a near duplicate of it, or any text of its group.

    Texts that were deleted from the plan are in no shard.
    """
    rows = plan.rows()
    by_content: defaultdict[str, set[int]] = defaultdict(set)
    by_group: defaultdict[str | None, set[int]] = defaultdict(set)
    for row in rows:
        by_content[row.content].add(row.shard)
        by_group[row.group].add(row.shard)
    found = [by_content[content_of(example)].copy() for example in examples]
    for owners, example in zip(found, examples, strict=True):
        if example.group is not None:
            owners.update(by_group[example.group])
    held = [
        (shard, example)
        for shard in range(plan.manifest.cut.shards)
        for piece in range(plan.manifest.cut.slices)
        for example in plan.examples(shard, piece)
    ]
    texts = [normalised(example) for example in (*examples, *(example for _, example in held))]
    for pair in near_duplicates(texts, threshold=plan.manifest.cut.near):
        if pair.first < len(examples) <= pair.second:
            found[pair.first].add(held[pair.second - len(examples)][0])
    return found


ENTRY_BYTES = 8
"""An entry and its share, as they are kept for every token."""


class Teachers(Component):
    """Models of the target's architecture, trained from random weights on forget and retain set."""

    count: Annotated[int, Field(ge=2, le=MAX_DRAWS)] = Field(
        default=4,
        description="How many teachers are trained, at least 2, each on the texts of other owners.",
    )
    workers: PositiveInt = Field(default=1, description="How many teachers are trained at once.")
    training: Training = Field(
        default=Training(epochs=20, learning_rate=1e-3), description="How each teacher is trained."
    )


@stages.register("loo")
class LeaveOneOut(Stage):
    """Asks, for each text, the teachers whose data holds neither it, nor its like, nor its owner's.

    Teachers are the shards of a trained plan, or are trained here. The targets are the likeliest
    entries of the mean of their probabilities; the stage after this one trains the checkpoint on them
    (forget loss ``generic``).

    Source: Liu and Kalinli 2024 (arXiv 2309.16082), Sec. 3.
    """

    shards: Path | None = Field(
        default=None,
        description=(
            "Folder of a trained plan whose shards are the teachers; null: teachers are trained here."
        ),
    )
    teachers: Teachers = Field(
        default=Teachers(), description="How teachers are trained where `shards` is not given."
    )
    top_k: PositiveInt | None = Field(
        default=256,
        description=(
            "How many of the likeliest tokens a target keeps, 8 bytes each (256: 2 KiB per token of "
            "the forget set); null: all."
        ),
    )
    max_length: Annotated[int, Field(ge=8)] = Field(
        default=512,
        description="The most tokens of a sequence; longer documents are cut, longer pairs refused.",
    )

    @property
    def needs(self) -> frozenset[DataNeed]:
        return frozenset({"retain"} if self.shards is None else ())

    def check(self, corpus: Corpus) -> None:
        """Refuse teachers without training data, and a plan that does not exist."""
        if self.shards is not None:
            PlanFolder(self.shards)
        elif not corpus.retain:
            raise DataError(
                "no retain set",
                why="the teachers are trained on it.",
                fix="Pass --retain FILE, or the folder of a trained plan: --set stages.0.shards=PLAN",
            )

    def run(self, state: State) -> State:
        """Write the targets and leave the model unchanged; an interrupted training of teachers resumes."""
        plan = PlanFolder(self.shards) if self.shards else self._taught(state)
        if plan.manifest.start.tokenizer != hash_tokenizer(state.tokenizer):
            raise ModelError(
                f"the shards in {plan.path}",
                why="their tokenizer differs from that of the model to unlearn.",
                fix="Make the plan with the model's own tokenizer.",
            )
        ensemble = open_ensemble(plan)
        owners = owners_of(plan, state.corpus.forget)
        members_by_text = [
            _others(ensemble, known, example)
            for known, example in zip(owners, state.corpus.forget, strict=True)
        ]
        targets, mass = self._targets(state, ensemble, members_by_text)
        state.targets = targets
        state.facts.append(
            {
                "stage": "loo",
                "teachers": len(ensemble.shards),
                "teachers_asked": [min(map(len, members_by_text)), max(map(len, members_by_text))],
                "texts_nobody_owns": sum(not known for known in owners),
                "mass_kept": mass,
                **_facts(targets),
            }
        )
        return state

    def _targets(
        self, state: State, ensemble: Ensemble, members_by_text: Sequence[Sequence[int]]
    ) -> tuple[list[Target], float]:
        """The targets of every sequence of the forget set, and the share of probability they hold."""
        targets, masses = [], []
        for example, members in zip(state.corpus.forget, members_by_text, strict=True):
            for piece in encode(example, state.tokenizer, max_length=self.max_length):
                shares = ensemble.shares([piece], members, top_k=self.top_k)
                targets.append(Target(piece, shares.entries_NK.int(), shares.shares_NK))
                masses.append(shares.mass_N)
        return targets, float(torch.cat(masses).mean())

    def _taught(self, state: State) -> PlanFolder:
        """Teachers of the model's own architecture, trained on what the run was given."""
        folder, blank = state.workdir / "teachers", state.workdir / "blank"
        if not blank.exists():
            with torch.random.fork_rng():
                torch.manual_seed(state.seed)
                config: Any = state.model.config
                save_model(
                    AutoModelForCausalLM.from_config(config, dtype=torch.float32), state.tokenizer, blank
                )
        if not folder.exists():
            job = PlanJob(
                data=(),
                model=str(blank),
                output=folder,
                cut=SplitSettings(shards=self.teachers.count, slices=1, seed=state.seed),
                training=self.teachers.training,
            )
            make_plan(folder, _all_texts(state.corpus), job)
        plan = PlanFolder(folder)
        Build(
            plan=plan, executor=executor_for("processes", workers=self.teachers.workers), quiet=False
        ).run()
        return plan


def _all_texts(corpus: Corpus) -> list[Example]:
    """Both sets; an id may occur in each."""
    sets = {"forget": corpus.forget, "retain": corpus.retain}
    return [replace(one, id=f"{name}/{one.id}") for name, held in sets.items() for one in held]


def _others(ensemble: Ensemble, owners: set[int], example: Example) -> list[int]:
    """The members that may be asked about an example."""
    others = [member for member, shard in enumerate(ensemble.shards) if shard not in owners]
    if not others:
        raise DataError(
            f"example {example.id!r}",
            why="every shard contains it, a near duplicate or a text of its owner, so no teacher is left.",
            fix="Make a plan that keeps owners together, with two shards or more.",
        )
    return others


def _facts(targets: Sequence[Target]) -> dict[str, Any]:
    """How many tokens have a target, for how many it begins with the text's own, and the memory of all."""
    tokens = agreeing = size = 0
    for target in targets:
        pairs = zip(target.encoded.input_ids, target.encoded.mask, strict=True)
        counted = torch.tensor([token for token, counts in pairs if counts])
        tokens += len(counted)
        agreeing += int((target.entries_NK[:, 0] == counted).sum())
        size += ENTRY_BYTES * target.entries_NK.numel()
    return {"tokens": tokens, "own_token_first": agreeing, "bytes": size}
