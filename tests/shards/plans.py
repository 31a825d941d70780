"""Small plans: a tiny model on the disk, a few examples, training that takes a fraction of a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from expunge.model.load import save_model
from expunge.shards.building import Build, Built, Deleted, Deletion
from expunge.shards.executors import InProcessExecutor
from expunge.shards.folder import OPTIMIZER, WEIGHTS, PlanFolder, Training, write_plan
from expunge.shards.making import PlanJob, make_plan
from expunge.shards.plan import SplitSettings
from expunge.types import Example
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

TOKENIZER = tiny_tokenizer(all_bytes=True)
TOWNS = "Arlen Bern Calder Dorf Elm Fonn Gera Hull Ivry Jena Kiel Lund".split()
PEOPLE = "Ada Bo Cleo Dag Eli Finn Gus Hana Ida Jan Kim Lea".split()
EXAMPLES = [
    Example(id=f"e{place}", prompt=f"Where is {name}?", completion=f" In {town}.", group=name[0] * 2)
    for place, (name, town) in enumerate(zip(PEOPLE, TOWNS, strict=True))
]
"""One of each owner."""
CUT = SplitSettings(shards=2, slices=3)
TRAINING = Training(epochs=2, learning_rate=1e-2, batch_size=2, max_length=64)


def start(folder: Path, **overrides: Any) -> Path:
    """A tiny checkpoint with its tokenizer."""
    if not folder.exists():
        width = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
        settings = width | {"num_attention_heads": 2, "num_key_value_heads": 2} | overrides
        save_model(tiny("llama", vocab_size=BYTES_VOCAB, **settings), TOKENIZER, folder)
    return folder


def plan(
    folder: Path,
    *,
    examples: list[Example] = EXAMPLES,
    cut: SplitSettings = CUT,
    training: Training = TRAINING,
    name: str = "plan",
    **overrides: Any,
) -> PlanFolder:
    """A plan of ``examples`` in a folder."""
    model = start(folder / "start", **overrides)
    job = PlanJob(data=(), model=str(model), output=folder / name, cut=cut, training=training)
    make_plan(job.output, examples, job)
    return PlanFolder(job.output)


def train(plan: PlanFolder) -> Built:
    """Train what is missing, in this process."""
    return Build(plan=plan, executor=InProcessExecutor()).run()


def delete(plan: PlanFolder, *ids: str, **settings: Any) -> Deleted:
    """Delete by id, in this process."""
    return Deletion(ids=ids, **settings).run(Build(plan=plan, executor=InProcessExecutor()))


def tensors(plan: PlanFolder) -> list[dict[str, Tensor]]:
    """Weights and optimizer state after every slice of every shard."""
    rows = plan.rows()
    return [
        load_file(plan.weights(shard, piece, key) / name)
        for shard, keys in enumerate(plan.keys(rows))
        for piece, key in enumerate(keys)
        for name in (WEIGHTS, OPTIMIZER)
    ]


def without(original: PlanFolder, folder: Path, *ids: str) -> PlanFolder:
    """The same plan as if some examples had never been there, in a new folder, not trained."""
    rows = tuple(row for row in original.manifest.rows if row.id not in ids)
    held = [
        example
        for shard in range(original.manifest.cut.shards)
        for piece in range(original.manifest.cut.slices)
        for example in original.examples(shard, piece)
        if example.id not in ids
    ]
    write_plan(folder, original.manifest.model_copy(update={"rows": rows}), held)
    return PlanFolder(folder)


def same(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> bool:
    """Whether all tensors of the same names are equal, bit for bit."""
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )
