"""Making a plan: read the examples, deal them out, write the folder whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from expunge.corpus.checks import check_sets
from expunge.corpus.readers import read_examples
from expunge.errors import RecipeError
from expunge.files import claiming, nothing, refuse_existing, writing
from expunge.model.create import ScratchModel
from expunge.model.load import hash_model, load_model, load_tokenizer, save_model
from expunge.record import hash_json
from expunge.registry import explain
from expunge.shards.cost import expected_share
from expunge.shards.folder import START, PlanFolder, write_plan
from expunge.shards.manifest import Manifest, Start, Training
from expunge.shards.plan import Cut, plan_rows, spread_owners
from expunge.types import Example


@dataclass(frozen=True, kw_only=True)
class PlanJob:
    """A plan as it is asked for on the command line.

    Shards begin with the weights of ``model``, or with random ones of the sizes ``scratch`` and the
    tokenizer of ``model``: one that was trained on the examples would know them.
    """

    data: tuple[str, ...]
    model: str
    output: Path
    cut: Cut = field(default_factory=Cut)
    training: Training = field(default_factory=Training)
    scratch: ScratchModel | None = None
    fields: Mapping[str, str] | None = None

    def run(self) -> dict[str, Any]:
        """Write the plan; what it comes to, in numbers."""
        with claiming(self.output):
            refuse_existing(self.output, overwrite=None)
            examples = [each for source in self.data for each in read_examples(source, fields=self.fields)]
            check_sets(examples, ())
            return make_plan(self.output, examples, self)

    def load(self) -> tuple[Any, Any]:
        """The model every shard begins with, and the tokenizer."""
        if self.scratch is None:
            model = load_model(self.model)
            return model, load_tokenizer(self.model, model=model)
        tokenizer = load_tokenizer(self.model)
        return self.scratch.create(tokenizer, seed=self.cut.seed), tokenizer


def make_plan(output: Path, examples: list[Example], job: PlanJob) -> dict[str, Any]:
    """Deal ``examples`` out and write the plan's folder, whole or not at all; numbers for people.

    Raises:
        DataError: there is not enough to deal out.
        RecipeError: so few epochs that a slice would never be trained on.
    """
    rows = plan_rows(examples, job.cut)
    model, tokenizer = job.load()
    inside = job.scratch is not None
    start = Start(
        folder=START if inside else str(Path(job.model).expanduser().absolute()),
        weights=hash_model(model),
        tokenizer=hash_tokenizer(tokenizer),
    )
    try:
        manifest = Manifest(cut=job.cut, training=job.training, start=start, rows=tuple(rows))
    except ValidationError as error:
        raise RecipeError("the plan", why=explain(error), fix="Change its settings.") from error
    with writing(output, may_replace=nothing, private=True) as folder:  # it holds the texts
        write_plan(folder, manifest, examples)
        if inside:
            save_model(model, tokenizer, folder / START)
    return facts_of(PlanFolder(output))


def facts_of(plan: PlanFolder) -> dict[str, Any]:
    """A plan in numbers: sizes, what lies together, who lies in several shards, what a deletion costs."""
    rows = plan.rows()
    cut = plan.manifest.cut
    return {
        "examples": len(rows),
        "shards": [sum(row.shard == shard for row in rows) for shard in range(cut.shards)],
        "near_duplicates": sum(row.near is not None for row in rows),
        "spread": spread_owners(rows),
        "share_per_deletion": expected_share(cut.slices) / cut.shards,
        "head": plan.ledger.head,
    }


def hash_tokenizer(tokenizer: Any) -> str:
    """SHA-256 of a tokenizer's rules and special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    return hash_json([rules, tokenizer.special_tokens_map, tokenizer.chat_template])
