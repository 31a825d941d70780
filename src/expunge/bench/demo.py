"""The demos: what they train and measure, and the audit in a few lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from expunge.audit.run.job import AuditJob
from expunge.audit.run.missing_inputs import ORDER
from expunge.audit.run.plan import FULL, Role
from expunge.audit.summary import AuditSummary
from expunge.audit.verdict import Outcome
from expunge.bench.builtin import Builtin
from expunge.bench.jobs import Job, run_jobs
from expunge.corpus.synthetic import WorldSize
from expunge.errors import OutputError
from expunge.files import write_json
from expunge.parsing import load_json
from expunge.record import Stopwatch, make_record
from expunge.train.methods.finetune import Finetune
from expunge.train.run.job import UnlearnJob
from expunge.train.run.recipe import Recipe, load_recipe

LOST = "bold red"


def narrate(summary: AuditSummary) -> RenderableType:
    """What the weights predicted, next to what came back."""
    table = Table(
        title="Share of the update that survives rounding (below 0.5 predicts a return; ! came back)",
        title_justify="left",
        title_style="dim",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    labels = [column.label for column in summary.conditions if column.label != FULL.label]
    for heading in ("", *labels):
        table.add_column(heading, no_wrap=True)
    diagnostics = {(remark.model, remark.condition): remark.content for remark in summary.diagnostics}
    for model in _unlearned(summary):
        cells = [_cell(summary, model, label, diagnostics.get((model, label), {})) for label in labels]
        table.add_row(model, *cells)
    return table


def _cell(summary: AuditSummary, model: str, label: str, content: dict[str, object]) -> Text:
    total = content.get("total")
    share = total.get("surviving") if isinstance(total, dict) else None
    verdict = summary.verdict(model, label)
    if not isinstance(share, float) or verdict is None:
        return Text("-")
    came_back = verdict.outcome is Outcome.CAME_BACK
    return Text(f"{share:.2f}{' !' if came_back else ''}", style=LOST if came_back else "")


def _unlearned(summary: AuditSummary) -> list[str]:
    return [model.name for model in summary.models if model.role is Role.UNLEARNED]


# The demo: a model that memorised people, unlearned three ways, audited as it would be deployed.

BLOCKS = "scope.name=regex", r"scope.pattern=\.(self_attn|mlp)\."
"""Only what quantizers round is trained: in a large model embeddings are a sliver of the weights."""

SMALL_RATE = "learning_rate=4e-5"
"""Below 6.1e-5 bf16 weights above 2^-6 stand still, as they do above 2^-8 at the published 1e-5."""

ROWS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "npo_klr-bf16": ("npo_klr", ("precision=bf16", SMALL_RATE, "epochs=40", *BLOCKS)),
        "npo_klr-fp32": ("npo_klr", (SMALL_RATE, "epochs=18", *BLOCKS)),
        "npo_klr_sure": (
            "npo_klr_sure",
            ("scope.granularity=sublayer", "scope.percentile=25", "retain.weight=8", "epochs=13"),
        ),
    }
)
"""Each row: its recipe and what is changed in it for models this small."""

SHARED = ("retain.weight=3", "max_length=256", "append_eos=false", "save_every=1000")

GRIDS = ("int8", "int4", "int3-tensor", "fp4", "nf4")

MINUTES = {"builtin": 5, "smollm2": 20}
"""What a demo takes the first time on two cores; for SmolLM2 an estimate from 5.5 s of one core a step."""

WORLD = WorldSize(forget=12, retain=18, holdout=6)
"""Intervals and tests resample people: with twelve to forget, a permutation test over all comparisons of
the table can tell a return from chance."""


Rows = Mapping[str, tuple[str, tuple[str, ...]]]


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Everything a demo does; what an earlier run has finished is not done again.

    ``rows`` are recipes with what is changed in each, ``shared`` what is changed in all of them.
    """

    output: Path
    workers: int = 2
    builtin: Builtin = field(default_factory=partial(Builtin, world=WORLD))
    rows: Rows = field(default_factory=lambda: dict(ROWS))
    shared: tuple[str, ...] = SHARED
    grids: tuple[str, ...] = GRIDS
    metrics: tuple[str, ...] = ORDER

    def run(self, console: Console) -> AuditSummary:
        """Train, unlearn, audit; returns the audit's summary."""
        watch = Stopwatch()
        done = self.output / "demo.json"
        if not done.exists():
            run_jobs(self._jobs(), workers=self.workers, console=console)
        summary = self._audit(tuple(self.rows), workers=1).run()
        if done.exists():
            return summary
        facts = {"rows": {name: {"recipe": row[0], "set": row[1]} for name, row in self.rows.items()}}
        write_json(done, make_record(command="demo", watch=watch, **facts))
        return summary

    def _jobs(self) -> list[Job]:
        built = self.builtin
        built.prepare()
        jobs = [
            Job(
                name=f"train the {which} model",
                work=partial(built.build, which),
                output=built.checkpoint(which),
            )
            for which in ("target", "retrained")
        ]
        train_target, train_retrained = (job.name for job in jobs)
        jobs += [
            Job(
                name=f"unlearn: {name}",
                work=partial(self._unlearn, name),
                output=self.output / name,
                after=(train_target, train_retrained) if _needs_control(overrides) else (train_target,),
            )
            for name, (_, overrides) in self.rows.items()
        ]
        audited = "audit: target and retrained"
        jobs.append(
            Job(name=audited, work=partial(self._measure, ()), after=(train_target, train_retrained))
        )
        return jobs + [
            Job(
                name=f"audit: {name}",
                work=partial(self._measure, (name,)),
                after=(audited, f"unlearn: {name}"),
            )
            for name in self.rows
        ]

    def _unlearn(self, name: str) -> None:
        recipe, overrides = self.rows[name]
        overrides = (*self.shared, *overrides)
        output = self.output / name
        if output.exists():
            _require_same(output, load_recipe(recipe, overrides))
            return
        world = self.builtin.world_folder
        job = UnlearnJob(
            model=str(self.builtin.checkpoint("target")),
            recipe=recipe,
            forget=str(world / "forget.jsonl"),
            retain=str(world / "retain.jsonl"),
            overrides=overrides,
            output=output,
        )
        job.run(warn=_ignore)

    def _measure(self, names: tuple[str, ...]) -> None:
        self._audit(names, workers=1).run()

    def _audit(self, names: tuple[str, ...], *, workers: int) -> AuditJob:
        return AuditJob(
            models=tuple(str(self.output / name) for name in names),
            target=str(self.builtin.checkpoint("target")),
            retrained=str(self.builtin.checkpoint("retrained")),
            probes=self.builtin.world_folder,
            quantizers=self.grids,
            metrics=self.metrics,
            output=self.output / "audit",
            max_length=256,
            workers=workers,
            shared=True,
        )


def _needs_control(overrides: tuple[str, ...]) -> bool:
    return any(each.startswith("stop.control=") for each in overrides)


def _require_same(output: Path, recipe: Recipe) -> None:
    """Refuse to take a model for one that another version of the demo made."""
    record = load_json((output / "record.json").read_bytes())
    if record["recipe"] != recipe.model_dump(mode="json"):
        raise OutputError(
            f"{output} was made with other settings",
            why="the demo of this version unlearns differently.",
            fix="Choose another --output, or remove that folder.",
        )


def _ignore(_: str) -> None:
    """The world's sets share no text; there is nothing to warn of."""


# The same on a pretrained model.

REAL_TRAINING = Finetune(
    on="retain",
    pack=True,
    learning_rate=2e-4,
    epochs=10,
    batch_size=4,
    max_length=128,
    save_every=2,
)


def smollm2_demo(output: Path, *, workers: int = 2, home: Path | None = None) -> Demo:
    """SmolLM2 fine-tuned on invented people, unlearned by the default recipe and by its losses in bf16.

    The grid is int4 in groups of 64: per row, 4 bits cost this model the knowledge it is to keep.
    """
    built = Builtin(base="smollm2", world=WorldSize(forget=6, retain=12), training=REAL_TRAINING, home=home)
    bf16 = "precision=bf16", "learning_rate=5e-5", "epochs=16", "stop=null"
    return Demo(
        output=output,
        workers=workers,
        builtin=built,
        rows={
            "durable": ("durable", (f"stop.control={built.checkpoint('retrained')}",)),
            "durable-losses-bf16": ("durable", bf16),
        },
        shared=("max_length=128", "append_eos=false"),
        grids=("int8", "int4-g64", "nf4"),
        metrics=("knowmem_forget", "utility", "privleak"),
    )
