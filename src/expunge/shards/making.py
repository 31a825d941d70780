"""Making a plan from the command line's words: read, deal out, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import ValidationError

from expunge.component import Component
from expunge.corpus.checks import check_sets
from expunge.corpus.readers import read_examples
from expunge.errors import RecipeError, did_you_mean
from expunge.files import claiming, nothing, refuse_existing, writing
from expunge.model.create import ScratchModel
from expunge.model.load import hash_model, load_model, load_tokenizer, save_model
from expunge.parsing import MAX_DEPTH, ParseError, load_yaml
from expunge.record import hash_json
from expunge.registry import explain
from expunge.shards.building import Build
from expunge.shards.ensemble import By, Prediction
from expunge.shards.executors import ExecutorName, executor_for
from expunge.shards.folder import START, Manifest, PlanFolder, Start, Training, write_plan
from expunge.shards.plan import SplitSettings, expected_share, plan_rows, spread_owners
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
    cut: SplitSettings = field(default_factory=SplitSettings)
    training: Training = field(default_factory=Training)
    scratch: ScratchModel | None = None
    fields: Mapping[str, str] | None = None

    def run(self) -> dict[str, Any]:
        """Write the plan; what it comes to, in numbers."""
        with claiming(self.output):
            refuse_existing(self.output, overwrite=None)
            examples = [
                example for source in self.data for example in read_examples(source, fields=self.fields)
            ]
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
    """A plan in numbers: sizes, groups kept together, owners in several shards, the cost of a deletion."""
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


# From words, as they are typed, to the jobs of this room: checked before anything is read.

C = TypeVar("C", bound=Component)


def plan_job(
    *,
    data: tuple[str, ...],
    model: str,
    output: Path,
    cut: Mapping[str, Any],
    sizes: Sequence[str] | None,
    settings: Sequence[str],
    fields: Mapping[str, str] | None,
) -> PlanJob:
    """A plan to make.

    Raises:
        RecipeError: a setting is unknown or out of range.
    """
    return PlanJob(
        data=data,
        model=model,
        output=output,
        cut=_checked(SplitSettings, cut, "the plan"),
        training=_checked(Training, nested(settings, "--set"), "--set"),
        scratch=_checked(ScratchModel, nested(sizes, "--size"), "--size") if sizes else None,
        fields=fields,
    )


def build_of(folder: Path, *, executor: str, workers: int, address: str | None = None) -> Build:
    """A plan to bring up to date, with progress bars on a terminal."""
    name = cast("ExecutorName", _one_of(executor, get_args(ExecutorName), "--executor"))
    chosen = executor_for(name, workers=workers, address=address)
    return Build(plan=PlanFolder(folder), executor=chosen, quiet=False)


def prediction(
    folder: Path,
    *,
    data: str,
    output: Path,
    by: str,
    max_new_tokens: int,
    fields: Mapping[str, str] | None,
) -> Prediction:
    """Questions to ask."""
    return Prediction(
        plan=PlanFolder(folder),
        data=data,
        output=output,
        by=cast("By", _one_of(by, get_args(By), "--by")),
        max_new_tokens=max_new_tokens,
        fields=fields,
    )


def nested(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """``["a.b=1"]`` as ``{"a": {"b": 1}}``, values read as YAML.

    Raises:
        RecipeError: an entry is not ``key=value``.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        path, equals, value = pair.partition("=")
        if not equals or not path:
            raise RecipeError(
                f"{option} {pair}", why="it is not of the form key=value.", fix=f"As in {option} epochs=20"
            )
        *outer, last = path.split(".")
        holder = settings
        for key in outer[:MAX_DEPTH]:
            holder = holder.setdefault(key, {})
            if not isinstance(holder, dict):
                raise RecipeError(
                    f"{option} {pair}",
                    why=f"{key!r} is already given a value, so it has no settings inside it.",
                    fix="Shorten the path before the '=', or leave out the other one.",
                )
        try:
            holder[last] = load_yaml(value)
        except ParseError as error:
            raise RecipeError(
                f"{option} {pair}",
                why=f"its value is not YAML that can be read: {error}.",
                fix=f"Quote the value: {option} '{path}=\"...\"'",
            ) from error
    return settings


def _checked(component: type[C], settings: Mapping[str, Any], where: str) -> C:
    try:
        return component.model_validate(settings)
    except ValidationError as error:
        raise RecipeError(
            where, why=explain(error), fix=f"It takes: {', '.join(component.model_fields)}."
        ) from error


def _one_of(name: str, known: Sequence[str], option: str) -> str:
    if name not in known:
        raise RecipeError(f"{option} {name}", why="there is no such choice.", fix=did_you_mean(name, known))
    return name
