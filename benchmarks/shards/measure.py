"""One plan: trained, asked, people deleted, asked again, and compared with one that never had them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any, get_args

import torch
from safetensors.torch import load_file

from benchmarks.shards.arms import BASE, MODEL, Arm, elsewhere
from expunge.corpus.batching import train_tokenizer
from expunge.corpus.formats import write_examples
from expunge.files import write_json
from expunge.metrics.rouge_recall import rouge_l
from expunge.record import Stopwatch
from expunge.shards.building import Build, Deletion
from expunge.shards.ensemble import By, open_ensemble, predict
from expunge.shards.executors import InProcessExecutor
from expunge.shards.folder import OPTIMIZER, WEIGHTS, PlanFolder, write_plan
from expunge.shards.making import PlanJob, make_plan
from expunge.shards.plan import SplitSettings, expected_share, work
from expunge.train.run.job import FinetuneJob
from expunge.types import Example

LONGEST = 12
"""Tokens of an answer; no true one is longer."""
ASKED = 36
"""Questions about those who stay."""


def measure(arm: Arm, home: Path) -> None:
    """Write what one arm comes to beside its plans; what an earlier run has done is not done again."""
    folder = arm.place(home)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "found.json").exists():
        return
    watch = Stopwatch()
    plan = planned(arm, folder)
    build = Build(plan=plan, executor=InProcessExecutor())
    if not (folder / "before.json").exists():
        build.run()
        write_json(folder / "before.json", knowledge(arm, plan))
    people = tuple(person.name for person in arm.world.forget_people)
    Deletion(groups=people).run(build)
    fresh = never_had(plan, folder / "fresh")
    Build(plan=fresh, executor=InProcessExecutor()).run()
    found = {
        "seed": arm.seed,
        "cut": arm.name,
        "start": arm.start,
        "before": json.loads((folder / "before.json").read_text(encoding="utf-8")),
        "after": knowledge(arm, plan),
        **cost(plan, fresh),
        **compared(plan, fresh),
        "cpu_seconds": round(watch.cpu_seconds, 1),
    }
    write_json(folder / "found.json", found)


def planned(arm: Arm, folder: Path) -> PlanFolder:
    """The plan, made unless it is there."""
    if not (folder / "plan").exists():
        job = PlanJob(
            data=(),
            model=str(tokenizer(arm, folder) if arm.start == "random" else base(arm.seed, folder.parent)),
            output=folder / "plan",
            cut=SplitSettings(shards=arm.shards, slices=arm.slices, seed=arm.seed),
            training=arm.training,
            scratch=MODEL if arm.start == "random" else None,
        )
        make_plan(job.output, arm.world.target_texts(), job)
    return PlanFolder(folder / "plan")


def tokenizer(arm: Arm, folder: Path) -> Path:
    """One made of other people's texts."""
    words = train_tokenizer(
        (example.text for example in elsewhere(arm.seed).all_texts()), vocabulary=MODEL.vocabulary
    )
    words.save_pretrained(folder / "tokenizer")
    return folder / "tokenizer"


def base(seed: int, home: Path) -> Path:
    """A model that has learnt to write of other people, trained unless it is there."""
    folder = home / "base"
    if not folder.exists():
        texts = home / "elsewhere.jsonl"
        write_examples(texts, elsewhere(seed).target_texts())
        FinetuneJob(data=(str(texts),), output=folder, scratch=MODEL, overrides=BASE, seed=seed).run()
    return folder


def never_had(plan: PlanFolder, folder: Path) -> PlanFolder:
    """The same plan as if what was deleted had never been in it, not trained."""
    if not folder.exists():
        cut, start = plan.manifest.cut, plan.manifest.start
        held = [
            example
            for shard in range(cut.shards)
            for piece in range(cut.slices)
            for example in plan.examples(shard, piece)
        ]
        begun = start.model_copy(update={"folder": str(plan.start.absolute())})
        write_plan(
            folder, plan.manifest.model_copy(update={"rows": tuple(plan.rows()), "start": begun}), held
        )
    return PlanFolder(folder)


def knowledge(arm: Arm, plan: PlanFolder) -> dict[str, dict[str, float]]:
    """KnowMem (ROUGE-L of the answers, 0-100) of those who go, in both phrasings, and of those who stay."""
    splits = arm.world.splits()
    forget = [example for example in splits["forget"] if not example.is_document]
    stay = [example for example in splits["retain"] if not example.is_document]
    asked = {
        "forget": forget,
        "paraphrase_questions": splits["paraphrase_questions"],
        "utility": stay[:: -(-len(stay) // ASKED)],
    }
    return {
        by: {name: knowmem(plan, questions, by) for name, questions in asked.items()} for by in get_args(By)
    }


def knowmem(plan: PlanFolder, questions: Sequence[Example], by: By) -> float:
    """The mean over questions."""
    said = predict(
        open_ensemble(plan),
        questions,
        by=by,
        max_new_tokens=LONGEST,
        max_length=plan.manifest.training.max_length,
    )
    truths = [question.completion for question in questions]
    scores = [rouge_l(truth, row["answer"]).f1 for truth, row in zip(truths, said, strict=True)]
    return round(100 * mean(scores), 2)


def cost(plan: PlanFolder, fresh: PlanFolder) -> dict[str, Any]:
    """Examples read for the deletion, in theory and by training anew; the average share of one deletion."""
    (deleted,) = plan.ledger.events("deleted")
    cut = plan.manifest.cut
    return {
        "examples_read": deleted.facts["examples"],
        "examples_in_theory": deleted.facts["examples_in_theory"],
        "examples_anew": sum(event.facts["examples"] for event in fresh.ledger.events("trained")),
        "examples_of_one_model": work([len(fresh.manifest.rows)], plan.manifest.training.epochs),
        "share_in_theory": expected_share(cut.slices) / cut.shards,
    }


def compared(plan: PlanFolder, fresh: PlanFolder) -> dict[str, int]:
    """Tensors after every slice of every shard, of weights and optimizer, and how many are equal."""
    tensors = equal = 0
    for shard, keys in enumerate(plan.keys(plan.rows())):
        for piece, key in enumerate(keys):
            for name in (WEIGHTS, OPTIMIZER):
                one = load_file(plan.weights(shard, piece, key) / name)
                other = load_file(fresh.weights(shard, piece, key) / name)
                tensors += len(one.keys() | other.keys())
                equal += sum(torch.equal(one[each], other[each]) for each in one.keys() & other.keys())
    return {"tensors": tensors, "equal": equal}
