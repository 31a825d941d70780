"""From paths and names, as a user gives them, to a run: read, check, load, carry out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from expunge.corpus.batching import train_tokenizer
from expunge.corpus.checks import check_sets
from expunge.corpus.readers import read_examples
from expunge.errors import DataError, RecipeError
from expunge.model.create import ScratchModel
from expunge.model.gguf_source import source_of
from expunge.model.load import load_model, load_tokenizer
from expunge.registry import explain
from expunge.train.run.own_texts import SELF, own_texts, own_texts_beside
from expunge.train.run.recipe import Recipe, load_recipe
from expunge.train.run.requests import RequestTracker, find_requests
from expunge.train.run.run import RunRequest, SavedDtype, carry_out, refuse_output
from expunge.train.run.state import Corpus
from expunge.types import Example


@dataclass(frozen=True, kw_only=True)
class UnlearnJob:
    """An unlearning run.

    ``retain`` is a file, or ``self``: texts the model writes itself, kept beside ``output``. Without it a
    recipe that needs a retain set gets these, too (``own_texts``).
    ``still`` are files of earlier requests of the same model, trained along so that they stay forgotten.
    ``forget_icl`` and ``retain_icl`` are solved questions, as an audit takes them: where the run measures
    what is known, it asks as that audit will.
    """

    model: str
    recipe: str
    forget: str
    output: Path
    retain: str | None = None
    holdout: str | None = None
    forget_icl: str | None = None
    retain_icl: str | None = None
    still: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    fields: Mapping[str, str] | None = None
    seed: int = 0
    save_dtype: SavedDtype = "source"
    allow_overlap: bool = False
    overwrite: bool = False
    trust_remote_code: bool = False

    def run(self, warn: Callable[[str], None]) -> dict[str, Any]:
        """Check everything that can be checked before the model is loaded, then carry the run out."""
        refuse_output(self.output, overwrite=self.overwrite)
        recipe = load_recipe(self.recipe, self.overrides)
        if any(stage.runs_code for stage in recipe.stages) and not self.trust_remote_code:
            raise RecipeError(
                f"recipe {recipe.name!r} runs Python code",
                why="it names a Python function, which can execute arbitrary code.",
                fix="Pass --trust-remote-code if you trust that function.",
            )
        forget = read_examples(self.forget, fields=self.fields)
        retain = self._retain(recipe, forget, warn)
        holdout = read_examples(self.holdout, fields=self.fields) if self.holdout else []
        for warning in check_sets(forget, retain, holdout, allow_overlap=self.allow_overlap):
            warn(warning)
        requests = find_requests(
            self.model,
            forget,
            forget_file=self.forget,
            recipe=recipe,
            still=self.still,
            fields=self.fields,
        )
        requests.check(retain, allow_overlap=self.allow_overlap, warn=warn)
        request = RunRequest(
            command="unlearn",
            recipe=recipe,
            source=source_of(self.model),
            corpus=Corpus(
                forget=requests.corpus,
                retain=tuple(retain),
                holdout=tuple(holdout),
                forget_icl=self._solved(self.forget_icl, "--forget-icl"),
                retain_icl=self._solved(self.retain_icl, "--retain-icl"),
            ),
            seed=self.seed,
            save_dtype=self.save_dtype,
            fields=self.fields,
        )
        return carry_out(
            request,
            partial(self._load, masked=all(stage.masked for stage in recipe.stages)),
            self.output,
            overwrite=self.overwrite,
            warn=warn,
            account=RequestTracker(requests),
        )

    def retain_file(self, recipe: Recipe) -> str | None:
        """Where the retain set of a run is read from; ``None`` if it has none."""
        own = self.retain == SELF or (
            not self.retain and any("retain" in each.needs for each in recipe.stages)
        )
        return str(own_texts_beside(self.output)) if own else self.retain

    def _retain(
        self, recipe: Recipe, forget: Sequence[Example], warn: Callable[[str], None]
    ) -> Sequence[Example]:
        source = self.retain_file(recipe)
        if source is None or source == self.retain:
            return read_examples(source, fields=self.fields) if source else []
        masked = all(stage.masked for stage in recipe.stages)
        if masked:
            raise RecipeError(
                "a retain set that the model writes itself",
                why="a masked language model does not write texts.",
                fix="Pass --retain FILE: texts of the kind the model is to go on knowing.",
            )
        return own_texts(
            partial(self._load, masked=False), forget, Path(source), seed=self.seed, report=warn
        )

    def _solved(self, source: str | None, option: str) -> tuple[Example, ...]:
        if source is None:
            return ()
        solved = tuple(read_examples(source, fields=self.fields))
        if all(example.is_document for example in solved):
            raise DataError(
                f"{option} {source}",
                why="it has no questions, and few-shot examples are questions with answers.",
                fix=f"Pass a file of questions with their answers, or leave {option} out.",
            )
        return solved

    def _load(self, *, masked: bool) -> tuple[Any, Any]:
        model = load_model(self.model, trust_remote_code=self.trust_remote_code, masked=masked)
        tokenizer = load_tokenizer(self.model, model=model, trust_remote_code=self.trust_remote_code)
        return model, tokenizer


@dataclass(frozen=True, kw_only=True)
class FinetuneJob:
    """A training run, from a checkpoint or from random weights."""

    data: tuple[str, ...]
    output: Path
    model: str | None = None
    scratch: ScratchModel | None = None
    tokenizer: str | None = None
    overrides: tuple[str, ...] = ()
    fields: Mapping[str, str] | None = None
    seed: int = 0
    overwrite: bool = False
    trust_remote_code: bool = False

    def run(self, warn: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
        """Check what can be checked before anything is loaded, then carry the run out."""
        refuse_output(self.output, overwrite=self.overwrite)
        if self.model is not None and self.scratch is not None:
            raise RecipeError(
                f"--size with --model {self.model}",
                why="that model already has its size.",
                fix="Leave out --size, or leave out --model to start from random weights.",
            )
        recipe = load_recipe("finetune", self.overrides)
        examples = [
            example for source in self.data for example in read_examples(source, fields=self.fields)
        ]
        request = RunRequest(
            command="finetune",
            recipe=recipe,
            source=self.model or str(self.scratch or ScratchModel()),
            corpus=Corpus(forget=(), retain=tuple(examples)),
            seed=self.seed,
            fields=self.fields,
        )
        return carry_out(
            request, lambda: self._load(examples), self.output, overwrite=self.overwrite, warn=warn
        )

    def _load(self, examples: Sequence[Example]) -> tuple[Any, Any]:
        if self.model is not None:
            model = load_model(self.model, trust_remote_code=self.trust_remote_code)
            return model, load_tokenizer(
                self.tokenizer or self.model, model=model, trust_remote_code=self.trust_remote_code
            )
        scratch = self.scratch or ScratchModel()
        if self.tokenizer is not None:
            tokenizer = load_tokenizer(self.tokenizer, trust_remote_code=self.trust_remote_code)
        else:
            texts = (example.text for example in examples)
            tokenizer = train_tokenizer(texts, vocabulary=scratch.vocabulary)
        return scratch.create(tokenizer, seed=self.seed), tokenizer


def scratch_model(sizes: Sequence[str]) -> ScratchModel:
    """The model that ``["hidden=256", ...]`` describes.

    Raises:
        RecipeError: an entry is not ``key=value``, names no size, or is not a positive number.
    """
    pairs = [size.partition("=") for size in sizes]
    try:
        return ScratchModel.model_validate({key: value for key, _, value in pairs})
    except ValidationError as error:
        raise RecipeError(
            f"--size {' '.join(sizes)}",
            why=explain(error),
            fix=f"It takes {', '.join(ScratchModel.model_fields)}, as in --size hidden=256.",
        ) from error
