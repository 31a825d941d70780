"""A sweep: several recipes with several seeds on one request, and one audit of all of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from rich.console import Console

from expunge.audit.run.job import AuditJob
from expunge.audit.summary import AuditSummary
from expunge.bench.jobs import Job, run_jobs
from expunge.catalogue import recipe_and_settings
from expunge.corpus.benchmarks import benchmark
from expunge.corpus.benchmarks.load import load_corpora
from expunge.corpus.formats import write_examples
from expunge.errors import DataError, OutputError, RecipeError
from expunge.files import RECORD, claiming, make_private, write_json
from expunge.parsing import load_json
from expunge.record import hash_file
from expunge.train.run.job import UnlearnJob
from expunge.train.run.outcome import forget_line
from expunge.train.run.recipe import Recipe, load_recipe

SETTINGS = "sweep.json"
"""What all runs of a sweep have in common, so that another one is not mixed into its folder."""
UNLIKE_A_NAME = re.compile(r"[^\w.+-]+")
SETS = ("forget", "retain")


@dataclass(frozen=True, slots=True)
class Variant:
    """A recipe of the sweep: what it is called, its name or file, and the settings changed in it."""

    name: str
    recipe: str
    overrides: tuple[str, ...]

    @classmethod
    def of(cls, text: str, overrides: tuple[str, ...]) -> Variant:
        """``npo_gdr`` or ``npo_gdr:epochs=3,learning_rate=1e-5``; ``overrides`` hold for every recipe."""
        recipe, own = recipe_and_settings(text)
        name = Path(recipe).stem if recipe.endswith((".yaml", ".yml")) else recipe
        return cls(UNLIKE_A_NAME.sub("-", ":".join([name, *own])), recipe, (*overrides, *own))


@dataclass(frozen=True, kw_only=True)
class SweepJob:
    """Every recipe with every seed, then one audit in which the seeds of a recipe are one row.

    ``recipes`` are names, files, or either with settings (``npo_gdr:epochs=3``). ``forget`` and ``retain``
    are what is trained on; without them they are the training sets of ``benchmark``. What an earlier sweep
    in ``output`` has finished is not done again, and recipes and seeds may be added to it.
    """

    model: str
    recipes: tuple[str, ...]
    output: Path
    seeds: tuple[int, ...] = (0,)
    forget: str | None = None
    retain: str | None = None
    holdout: str | None = None
    benchmark: str | None = None
    data: Path | None = None
    retrained: str | None = None
    overrides: tuple[str, ...] = ()
    quantizers: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    max_items: int | None = None
    max_length: int = 2048
    fields: Mapping[str, str] | None = None
    workers: int = 1

    @cached_property
    def variants(self) -> tuple[Variant, ...]:
        """The recipes by what they are called.

        Raises:
            RecipeError: a recipe cannot be read, or two have the same name.
        """
        variants = tuple(Variant.of(text, self.overrides) for text in self.recipes)
        names = Counter(each.name for each in variants)
        twice = next((name for name, count in names.items() if count > 1), None)
        if twice is not None or not variants:
            raise RecipeError(
                "a sweep without recipes" if twice is None else f"--recipe {twice}",
                why="there is nothing to compare." if twice is None else "it is named more than once.",
                fix="Name each recipe once: -r npo_gdr -r simnpo_gdr -r npo_gdr:epochs=3.",
            )
        return variants

    @property
    def folder_of_audit(self) -> Path:
        """Where the audit of all runs lies."""
        return self.output / "audit"

    def run(self, console: Console, *, warn: Callable[[str], None]) -> AuditSummary:
        """Check every recipe, unlearn what is not yet unlearned, and audit all of it."""
        recipes = {each.name: load_recipe(each.recipe, each.overrides) for each in self.variants}
        with claiming(self.output):
            make_private(self.output)
            files = self._files()
            self._require_same(files, recipes)
            run_jobs(self._jobs(files), workers=self.workers, console=console)
            for name in self._folders:
                for good, line in filter(None, [forget_line(self._record(name))]):
                    if not good:
                        warn(f"{name}: {line}")
            return self._audit(files).run()

    @property
    def _folders(self) -> dict[str, tuple[Variant, int]]:
        """Every run by the name of its folder."""
        return {f"{each.name}-seed{seed}": (each, seed) for each in self.variants for seed in self.seeds}

    def _files(self) -> dict[str, str]:
        """The files that are trained on; those of a benchmark are written beside the runs first."""
        given = {name: file for name in SETS if (file := getattr(self, name)) is not None}
        if "forget" in given:
            return given
        if self.benchmark is None:
            raise DataError(
                "a sweep without a forget set",
                why="there is nothing to unlearn.",
                fix="Pass --forget FILE, or --benchmark NAME for the benchmark's own training sets.",
            )
        known = benchmark(self.benchmark)
        if not known.corpora:
            raise DataError(
                f"--benchmark {self.benchmark}",
                why="it has no training sets of its own.",
                fix="Pass --forget FILE and --retain FILE.",
            )
        folder = self.output / "data"
        make_private(folder)
        files = {name: folder / f"{name}.jsonl" for name in SETS if name in known.corpora}
        if not all(file.exists() for file in files.values()):
            corpora = load_corpora(known, self.data)
            for name, file in files.items():
                write_examples(file, corpora[name], private=True)
        return {name: str(file) for name, file in files.items()} | given

    def _require_same(self, files: Mapping[str, str], recipes: Mapping[str, Recipe]) -> None:
        """Keep what the runs have in common; refuse a folder whose runs were made with something else."""
        path = self.output / SETTINGS
        known = load_json(path.read_bytes()) if path.exists() else {"recipes": {}}
        common = {
            "model": str(Path(self.model).absolute()),
            **{name: hash_file(Path(file)) for name, file in files.items() if Path(file).is_file()},
        }
        wanted = {name: recipe.model_dump(mode="json") for name, recipe in recipes.items()}
        changed = [name for name, value in common.items() if known.get(name, value) != value]
        changed += [name for name, value in wanted.items() if known["recipes"].get(name, value) != value]
        if changed:
            raise OutputError(
                f"{self.output} holds another sweep",
                why=f"its runs were made with another {', '.join(changed)}.",
                fix="Choose another --output.",
            )
        write_json(path, {**known, **common, "recipes": {**known["recipes"], **wanted}})

    def _jobs(self, files: Mapping[str, str]) -> list[Job]:
        missing = [name for name in self._folders if not (self.output / name / RECORD).is_file()]
        return [
            Job(
                name=f"{name} ({number} of {len(missing)})",
                work=partial(_unlearn, self._unlearning(name, files)),
                output=self.output / name,
            )
            for number, name in enumerate(missing, start=1)
        ]

    def _unlearning(self, name: str, files: Mapping[str, str]) -> UnlearnJob:
        variant, seed = self._folders[name]
        return UnlearnJob(
            model=self.model,
            recipe=variant.recipe,
            forget=files["forget"],
            retain=files.get("retain"),
            holdout=self.holdout,
            overrides=variant.overrides,
            fields=self.fields,
            output=self.output / name,
            seed=seed,
        )

    def _record(self, name: str) -> dict[str, Any]:
        record: dict[str, Any] = load_json((self.output / name / RECORD).read_bytes())
        return record

    def _audit(self, files: Mapping[str, str]) -> AuditJob:
        paths = {
            each.name: [str(self.output / f"{each.name}-seed{seed}") for seed in self.seeds]
            for each in self.variants
        }
        many = len(self.seeds) > 1
        return AuditJob(
            models=() if many else tuple(path for group in paths.values() for path in group),
            seeds_of=tuple(f"{name}={','.join(group)}" for name, group in paths.items()) if many else (),
            names={} if many else {group[0]: name for name, group in paths.items()},
            target=self.model,
            retrained=self.retrained,
            splits={}
            if self.benchmark
            else {**files, **({"holdout": self.holdout} if self.holdout else {})},
            benchmark=self.benchmark,
            data=self.data,
            quantizers=self.quantizers,
            attacks=self.attacks,
            metrics=self.metrics,
            max_items=self.max_items,
            max_length=self.max_length,
            fields=self.fields,
            workers=self.workers,
            output=self.folder_of_audit,
        )


def _unlearn(job: UnlearnJob) -> None:
    job.run(warn=_ignore)


def _ignore(_: str) -> None:
    """What a run warns of is in its record, and is said once all have ended."""
