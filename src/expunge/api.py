"""``expunge.unlearn``, ``expunge.audit`` and ``expunge.measure``: the jobs for notebooks and scripts.

They take paths or loaded models, and data as files, lists of dictionaries or ``datasets.Dataset``. What
is not a file is written to a temporary folder and given to the same job as on the command line, so that
both give the same bytes and the same numbers.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import yaml

from expunge.audit.run.job import SPLITS, AuditJob
from expunge.corpus.formats import write_examples
from expunge.corpus.readers import read_examples
from expunge.errors import RecipeError, did_you_mean
from expunge.files import write_text
from expunge.metrics import metrics as metric_registry
from expunge.metrics.base import scored
from expunge.metrics.probes import Probes
from expunge.model.load import load_model, load_tokenizer, save_model
from expunge.parsing import load_json
from expunge.report.document import to_csv, to_markdown
from expunge.report.job import write_page
from expunge.report.run import AuditRun, read_run
from expunge.train.run.job import UnlearnJob
from expunge.types import Example

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.audit.summary import AuditSummary, CellSummary
    from expunge.audit.verdict import Verdict
    from expunge.types import Score

    ModelOrPath: TypeAlias = PreTrainedModel | str | Path
    """A loaded causal language model, a folder, or a name on the Hub."""
    Texts: TypeAlias = str | Path | Iterable[Mapping[str, Any] | Example]
    """A data file, or rows with ``text``, ``prompt`` and ``completion``, or ``question`` and ``answer``."""


@dataclass(frozen=True, kw_only=True)
class UnlearnResult:
    """An unlearned model.

    Attributes:
        model: the model, on the CPU, in the dtype it was saved in.
        tokenizer: its tokenizer.
        record: what was done, as in ``record.json``.
        folder: the checkpoint; a temporary one, removed with this object, where no ``output`` was given.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    record: Mapping[str, Any]
    folder: Path
    _temporary: Any = field(default=None, repr=False)

    def __str__(self) -> str:
        from expunge.train.run.outcome import forget_line

        line = forget_line(self.record)
        return line[1] if line else f"unlearned in {self.record['seconds']:.0f} s"

    def _repr_html_(self) -> str:
        return f"<p><b>{escape(self.record['recipe']['name'])}</b>: {escape(str(self))}</p>"


class AuditResult:
    """A finished audit: ``verdict()``, ``cell()``, ``table()``, ``to_pandas()``, ``page()`` and more."""

    def __init__(self, run: AuditRun, temporary: Any = None) -> None:
        self.run = run
        self._temporary = temporary

    @property
    def summary(self) -> AuditSummary:
        """All results, as in ``summary.json``."""
        return self.run.summary

    def verdict(self, model: str, condition: str = "full") -> Verdict:
        """The verdict on an unlearned model under a condition.

        Raises:
            RecipeError: the audit has no such unlearned model or no such condition.
        """
        self._known("model", model, [row.name for row in self.run.judged])
        self._known("condition", condition, self.run.labels)
        verdict = self.summary.verdict(model, condition)
        if verdict is None:
            raise RecipeError(
                f"verdict({model!r}, {condition!r})",
                why="the audit has no verdict there.",
                fix="Measure a metric that decides one, such as knowmem_forget.",
            )
        return verdict

    def cell(self, model: str, metric: str, condition: str = "full") -> CellSummary:
        """One number with its interval and its comparisons.

        Raises:
            RecipeError: the audit has no such model, metric or condition.
        """
        self._known("model", model, [row.name for row in self.run.models])
        self._known("metric", metric, list(self.run.metrics))
        self._known("condition", condition, self.run.labels)
        return self.summary.cell(model, condition, metric)

    def table(self) -> str:
        """Every number as Markdown."""
        return to_markdown(self.run)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``, one row an estimate: the columns of ``expunge report --format csv``."""
        import io

        import pandas as pd  # type: ignore[import-untyped]

        return pd.read_csv(io.StringIO(to_csv(self.run)))

    def page(self) -> Path:
        """Write the report, ``report.html`` in the audit's folder, and return its path."""
        return write_page(self.run.folder)

    def __str__(self) -> str:
        from expunge.report.verdicts import headline

        return headline(self.run).verdict

    def _repr_html_(self) -> str:
        labels = self.run.labels
        lead = self.run.lead
        head = "".join(f"<th>{escape(label)}</th>" for label in ("", *labels))
        rows = "".join(
            f"<tr><th>{escape(model.name)}</th>"
            + "".join(f"<td>{self._shown(model.name, label, lead)}</td>" for label in labels)
            + "</tr>"
            for model in self.run.models
        )
        title = escape(self.run.metrics[lead].title) if lead else ""
        table = f"<table><caption>{title}</caption><tr>{head}</tr>{rows}</table>"
        return f"<p><b>{escape(str(self))}</b></p>{table}"

    def _shown(self, model: str, label: str, metric: str | None) -> str:
        from expunge.report.numbers import number

        value = None if metric is None else self.run.cell(model, label, metric).value.value
        return number(value, scale=self.run.metrics[metric].scale if metric else "")

    @staticmethod
    def _known(what: str, name: str, known: Sequence[str]) -> None:
        if name not in known:
            raise RecipeError(
                f"{what} {name!r}",
                why=f"the audit has no {what} of that name.",
                fix=f"It has {', '.join(known)}.",
            )


class _Scratch:
    """A temporary folder that goes with the last object that holds it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="expunge-"))
        self.remove = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


class Measurement(NamedTuple):
    """A metric of one model: its value (``None`` if undefined), and the score of every item."""

    value: float | None
    scores: tuple[Score, ...]


def unlearn(
    model: ModelOrPath,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    forget: Texts,
    retain: Texts | None = None,
    holdout: Texts | None = None,
    recipe: str | Path | Mapping[str, Any] = "durable",
    output: str | Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
    **settings: Any,
) -> UnlearnResult:
    """Make a model forget; ``expunge unlearn`` from Python.

    Args:
        model: a loaded model, which stays as it is, or a checkpoint.
        tokenizer: needed with a loaded model.
        forget: what to forget.
        retain: what to keep. Without it the model writes texts of its own where the recipe needs some.
        holdout: similar texts the model was not trained on; some recipes need them.
        recipe: the name of one, a YAML file, or a dictionary of the same form.
        output: where the checkpoint is kept; without it, in a temporary folder as long as the result lives.
        seed: the seed of everything random.
        overwrite: replace ``output``.
        settings: settings of the recipe, such as ``epochs=3`` or ``**{"retain.weight": 10}``.

    Raises:
        ExpungeError: bad input, with what to change.
    """
    keep = _Scratch()
    scratch = keep.folder
    job = UnlearnJob(
        model=_checkpoint(model, tokenizer, scratch / "model"),
        recipe=_recipe(recipe, scratch),
        forget=_file(forget, scratch / "forget.jsonl"),
        retain=None if retain is None else _file(retain, scratch / "retain.jsonl"),
        holdout=None if holdout is None else _file(holdout, scratch / "holdout.jsonl"),
        output=Path(output) if output else scratch / "unlearned",
        overrides=tuple(
            f"{name}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}"
            for name, value in settings.items()
        ),
        seed=seed,
        overwrite=overwrite,
    )
    record = job.run(warn=_warn)
    unlearned = load_model(job.output)
    return UnlearnResult(
        model=unlearned,
        tokenizer=load_tokenizer(str(job.output), model=unlearned),
        record=record,
        folder=job.output,
        _temporary=keep,
    )


def audit(
    models: Mapping[str, ModelOrPath] | ModelOrPath,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    forget: Texts,
    target: ModelOrPath | None = None,
    retrained: ModelOrPath | None = None,
    quantize: Sequence[str] = (),
    attack: Sequence[str] = (),
    metrics: Sequence[str] = (),
    output: str | Path | None = None,
    max_items: int | None = None,
    max_length: int = 2048,
    seed: int = 0,
    workers: int = 1,
    **splits: Texts,
) -> AuditResult:
    """Measure what models know, at the precision they are deployed at; ``expunge audit`` from Python.

    Args:
        models: unlearned models by name, or one of them (it is called ``model``).
        tokenizer: of the loaded models.
        forget: what was to be forgotten.
        target: the model before unlearning.
        retrained: a model trained without the forget set.
        quantize: quantizers, such as ``["int4", "nf4"]``.
        attack: attacks, such as ``["relearn"]``.
        metrics: the metrics; those that the given splits allow if none are named.
        output: the audit's folder; a temporary one without it.
        max_items: examples asked of each split; a hundred without it.
        max_length: tokens per forward pass; longer texts are split.
        seed: the seed of everything random.
        workers: models measured in parallel.
        splits: other splits, such as ``retain`` or ``holdout``.

    Raises:
        ExpungeError: bad input, with what to change.
    """
    scratch = (keep := _Scratch()).folder
    named = models if isinstance(models, Mapping) else {"model": models}
    paths = [
        _checkpoint(each, tokenizer, scratch / f"model-{at}") for at, each in enumerate(named.values())
    ]
    job = AuditJob(
        models=tuple(paths),
        names=dict(zip(paths, named, strict=True)),
        target=_optional(target, tokenizer, scratch / "target"),
        retrained=_optional(retrained, tokenizer, scratch / "retrained"),
        splits=_files({"forget": forget, **splits}, scratch),
        quantizers=tuple(quantize),
        attacks=tuple(attack),
        metrics=tuple(metrics),
        output=Path(output) if output else scratch / "audit",
        max_items=max_items,
        max_length=max_length,
        seed=seed,
        workers=workers,
    )
    job.run(warn=_warn)
    return AuditResult(read_run(job.output), keep)


def measure(
    metric: str,
    model: ModelOrPath,
    tokenizer: PreTrainedTokenizerBase | None = None,
    examples: Texts = (),
    *,
    max_length: int = 2048,
    **settings: Any,
) -> Measurement:
    """One metric of one model, at full precision, on ``examples`` as the split that it looks at.

    Raises:
        RecipeError: the metric or a setting is unknown, or it needs a retrained model (``expunge.audit``).
    """
    from expunge.inference.observer import Observer

    chosen = metric_registry.build({"name": metric, **settings})
    if chosen.needs_control:
        raise RecipeError(
            f"expunge.measure({metric!r})",
            why="this metric compares with a retrained model.",
            fix="Use expunge.audit(..., retrained=...).",
        )
    with tempfile.TemporaryDirectory(prefix="expunge-") as scratch:
        texts = tuple(read_examples(_file(examples, Path(scratch) / "examples.jsonl")))
    loaded = load_model(model) if isinstance(model, str | Path) else model
    words = tokenizer or load_tokenizer(str(model), model=loaded)
    observed = Observer(loaded, words, max_length=max_length)
    found = chosen.measure(observed, Probes(forget=texts, retain=texts))
    value = chosen.point_estimate(found) if any(map(len, scored(found).values())) else None
    return Measurement(value, tuple(score for scores in found.values() for score in scores))


def _checkpoint(model: ModelOrPath, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> str:
    if isinstance(model, str | Path):
        return str(model)
    if tokenizer is None:
        raise RecipeError(
            "a loaded model without a tokenizer",
            why="texts cannot be turned into its tokens.",
            fix="Pass the tokenizer as the second argument, or a checkpoint folder as the model.",
        )
    save_model(model, tokenizer, folder)
    return str(folder)


def _optional(model: ModelOrPath | None, tokenizer: Any, folder: Path) -> str | None:
    return None if model is None else _checkpoint(model, tokenizer, folder)


def _files(splits: Mapping[str, Texts], folder: Path) -> dict[str, str]:
    unknown = next((name for name in splits if name not in SPLITS), None)
    if unknown is not None:
        known = (*SPLITS, "quantize", "attack", "metrics", "max_items", "max_length")
        why = "there is no such setting, and no split of that name."
        raise RecipeError(f"audit(..., {unknown}=...)", why=why, fix=did_you_mean(unknown, known))
    return {name: _file(texts, folder / f"{name}.jsonl") for name, texts in splits.items()}


def _file(texts: Texts, path: Path) -> str:
    """A data file as it is; rows are written to ``path``."""
    if isinstance(texts, str | Path):
        return str(texts)
    rows = list(texts)
    if rows and all(isinstance(row, Example) for row in rows):
        write_examples(path, [row for row in rows if isinstance(row, Example)], private=True)
    else:
        lines = (f"{_json(row, number)}\n" for number, row in enumerate(rows))
        write_text(path, "".join(lines), private=True)
    return str(path)


def _json(row: Any, number: int) -> str:
    try:
        text = json.dumps(dict(row), ensure_ascii=False)
        load_json(text)
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"row {number} of the data",
            why=f"it is not a dictionary of texts, numbers and lists ({error}).",
            fix="Pass dictionaries with text, prompt and completion, question and answer, or messages.",
        ) from error
    return text


def _recipe(recipe: str | Path | Mapping[str, Any], folder: Path) -> str:
    if not isinstance(recipe, Mapping):
        return str(recipe)
    path = folder / "recipe.yaml"
    plain = {"title": "A recipe given in Python", "paper": "none", **recipe}
    write_text(path, yaml.safe_dump(plain, sort_keys=False))
    return str(path)


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)
