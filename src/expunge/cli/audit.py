"""``expunge audit``: measure what models still know, at the precision they are deployed at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from expunge.cli.config_file import Config
from expunge.cli.options import (
    CONDITIONS_PANEL,
    DATA_PANEL,
    MEASURES_PANEL,
    MODELS_PANEL,
    Calibrate,
    CalibrationLength,
    CalibrationSamples,
    Field,
    RemoteCode,
    Seed,
    Template,
    checked_early,
    fields,
    print_warning,
)
from expunge.terminal import Terminal, echo

if TYPE_CHECKING:
    from expunge.audit.run.calibrate import CalibrationChoice
    from expunge.audit.run.job import AuditJob
    from expunge.inference.served.endpoint import Serving

Models = Annotated[
    list[str] | None,
    typer.Argument(
        help="Folders of the unlearned checkpoints, or URLs of servers (http://127.0.0.1:8000/v1)."
    ),
]
SeedsOf = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=A,B",
        rich_help_panel=MODELS_PANEL,
        help="Checkpoints of one recipe trained with several seeds: NAME=path,path. Repeatable.",
    ),
]
Forget = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", rich_help_panel=DATA_PANEL, help="Forget set: the data to have been forgotten."
    ),
]
Retain = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=DATA_PANEL,
        help="Retain set: data the model must still know (utility).",
    ),
]
Holdout = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=DATA_PANEL,
        help="Texts like the forget set that were never trained on (leakage).",
    ),
]
Neighbours = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=DATA_PANEL,
        help="Questions close to the forget set that the model must still answer.",
    ),
]
Rephrased = Annotated[
    str | None,
    typer.Option(
        "--paraphrase",
        metavar="FILE",
        rich_help_panel=DATA_PANEL,
        help="Paraphrases of the forget set's questions.",
    ),
]
ForgetShots = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=DATA_PANEL,
        help="Few-shot examples prepended to each forget question.",
    ),
]
RetainShots = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=DATA_PANEL,
        help="Few-shot examples prepended to each retain question.",
    ),
]
ProbesFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        rich_help_panel=DATA_PANEL,
        help="Folder with one file per split: forget.jsonl, retain.jsonl, ...",
    ),
]
Benchmark = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=DATA_PANEL,
        help="A public benchmark with its metrics: muse-news, tofu-forget10, wmdp-bio, rwku, ...",
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        rich_help_panel=DATA_PANEL,
        help="Folder of the benchmark's data. Default: load from the Hub.",
    ),
]
Target = Annotated[
    str | None,
    typer.Option(metavar="MODEL", rich_help_panel=MODELS_PANEL, help="The model before unlearning."),
]
Retrained = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", rich_help_panel=MODELS_PANEL, help="A model trained without the forget set."
    ),
]
Quantizers = Annotated[
    list[str] | None,
    typer.Option(
        "--quantize",
        "-q",
        metavar="NAME",
        rich_help_panel=CONDITIONS_PANEL,
        help="int8, int4, int4-g64, int3, gptq4-g128, awq4-g128, fp4, nf4, bnb-int8. Repeatable.",
    ),
]
Attacks = Annotated[
    list[str] | None,
    typer.Option(
        "--attack",
        "-a",
        metavar="NAME",
        rich_help_panel=CONDITIONS_PANEL,
        help="relearn, gcg, ablate, in_context, prune, on each model and quantized version; settings "
        "after a colon: relearn:on=benign,steps=5. Repeatable.",
    ),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="NAME",
        rich_help_panel=MEASURES_PANEL,
        help="Measure only these, or 'all': NAME or NAME:setting=value. Repeatable.",
    ),
]
Served = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=MODELS_PANEL,
        help="What a model is called on its server, where one is named by a URL (or write URL#NAME).",
    ),
]
SendTo = Annotated[
    str | None,
    typer.Option(
        metavar="HOST",
        rich_help_panel=MODELS_PANEL,
        help="Allow questions about the forget set to be sent to this host, not only to this machine.",
    ),
]
MaxRequests = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=MODELS_PANEL, min=0, help="The most requests to one server."),
]
VerdictOn = Annotated[
    list[str] | None,
    typer.Option(
        "--verdict-on",
        metavar="NAME",
        rich_help_panel=MEASURES_PANEL,
        help="Let this metric decide the verdict too: leak_at_k, or leak_at_k:k=128. Repeatable.",
    ),
]
AuditFolder = Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Output folder.")]
MaxItems = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        rich_help_panel=MEASURES_PANEL,
        min=1,
        help="Examples per split. Default: 100; for a benchmark, all.",
    ),
]
MaxLength = Annotated[
    int,
    typer.Option(
        metavar="N",
        rich_help_panel=MEASURES_PANEL,
        min=8,
        help="Maximum tokens per forward pass; longer texts are split.",
    ),
]
Workers = Annotated[int, typer.Option(metavar="N", min=1, help="Models measured in parallel.")]
WeightsOnly = Annotated[
    bool,
    typer.Option(
        "--weights",
        rich_help_panel=MEASURES_PANEL,
        help="Only compare weights with the target's, without running the models.",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print every table, with intervals.")]
AllowOverlap = Annotated[
    bool,
    typer.Option(
        "--allow-overlap",
        rich_help_panel=CONDITIONS_PANEL,
        help="Allow calibration on text that is also evaluated on.",
    ),
]

EXAMPLE = (
    "Example:  expunge audit ./unlearned --target ./model --forget f.jsonl --retain r.jsonl -q int4 -q nf4"
)
SPLITS = "forget retain holdout neighbours paraphrase_questions forget_icl retain_icl".split()
"""Splits with their own option, in the order of the options."""


def audit(
    models: Models = None,
    forget: Forget = None,
    retain: Retain = None,
    holdout: Holdout = None,
    neighbours: Neighbours = None,
    paraphrase_questions: Rephrased = None,
    forget_icl: ForgetShots = None,
    retain_icl: RetainShots = None,
    probes: ProbesFolder = None,
    benchmark: Benchmark = None,
    data: Data = None,
    target: Target = None,
    retrained: Retrained = None,
    seeds_of: SeedsOf = None,
    served: Served = None,
    send_to: SendTo = None,
    max_requests: MaxRequests = None,
    quantizer: Quantizers = None,
    attack: Attacks = None,
    metric: Metrics = None,
    verdict_on: VerdictOn = None,
    output: AuditFolder = Path("runs/audit"),
    max_items: MaxItems = None,
    max_length: MaxLength = 2048,
    field: Field = None,
    template: Template = None,
    seed: Seed = 0,
    workers: Workers = 1,
    calibrate: Calibrate = None,
    calibration_samples: CalibrationSamples = 128,
    calibration_length: CalibrationLength = 512,
    allow_overlap: AllowOverlap = False,
    weights: WeightsOnly = False,
    verbose: Verbose = False,
    config: Config = None,  # noqa: ARG001 - read before the others
    trust_remote_code: RemoteCode = False,
) -> None:
    """Measure models under quantizers, attacks and both ([bold]int4+relearn[/]), with a verdict on each."""
    from expunge.audit.run.job import AuditJob

    job = AuditJob(
        **_repeated(models, seeds_of, quantizer, attack, metric, verdict_on),
        output=output,
        serving=_serving(served, send_to, max_requests),
        splits=_splits(forget, retain, holdout, neighbours, paraphrase_questions, forget_icl, retain_icl),
        probes=probes,
        benchmark=benchmark,
        data=data,
        target=target,
        retrained=retrained,
        fields=fields(field, template),
        max_items=max_items,
        max_length=max_length,
        seed=seed,
        workers=workers,
        trust_remote_code=trust_remote_code,
        calibration=_calibration(calibrate, calibration_samples, calibration_length, allow_overlap),
    )
    _compare(job) if weights else print_audit(job, verbose=verbose)


def _compare(job: AuditJob) -> None:
    from expunge.audit.run.diagnose import MEANING, RESULT, WeightsJob, table

    compared = WeightsJob(
        models=list(job.models),
        target=job.target,
        quantizers=list(job.quantizers),
        output=job.output,
        trust_remote_code=job.trust_remote_code,
    )
    with Terminal(stderr=True).status("weights") as status:
        header, *rows = table(compared.run(status.update))
    for row in rows:
        for heading, cell in zip(header, row, strict=True):
            echo(f"{heading:14}{cell}")
        echo()
    echo(MEANING)
    echo(f"results by tensor: {job.output / RESULT}")


class _Repeated(TypedDict):
    models: tuple[str, ...]
    seeds_of: tuple[str, ...]
    quantizers: tuple[str, ...]
    attacks: tuple[str, ...]
    metrics: tuple[str, ...]
    verdict_on: tuple[str, ...]


def _repeated(*given: list[str] | None) -> _Repeated:
    """The options that may be repeated, in the order of the fields."""
    models, seeds_of, quantizers, attacks, metrics, verdict_on = (tuple(each or ()) for each in given)
    return _Repeated(
        models=models,
        seeds_of=seeds_of,
        quantizers=quantizers,
        attacks=attacks,
        metrics=metrics,
        verdict_on=verdict_on,
    )


def _serving(served: str | None, send_to: str | None, max_requests: int | None) -> Serving:
    from expunge.inference.served.endpoint import Serving

    return Serving(served=served, send_to=send_to, max_requests=max_requests)


def _splits(*sources: str | None) -> dict[str, str]:
    return {name: source for name, source in zip(SPLITS, sources, strict=True) if source}


def _calibration(word: str | None, samples: int, length: int, allow_overlap: bool) -> CalibrationChoice:
    from expunge.audit.run.calibrate import CalibrationChoice

    return CalibrationChoice(word=word, samples=samples, length=length, allow_overlap=allow_overlap)


def print_audit(job: AuditJob, *, verbose: bool = False) -> None:
    """Run an audit with a progress bar, print it on one screen (or every table) and write its report."""
    from expunge.audit.run.worker_status import progress_bar
    from expunge.audit.saved import read_record
    from expunge.audit.table import render
    from expunge.files import RECORD
    from expunge.report.filing import next_command
    from expunge.report.job import write_page
    from expunge.report.run import read_run
    from expunge.report.screen import screen

    with progress_bar(Terminal(stderr=True)) as progress:
        summary = job.run(progress, warn=print_warning)
    for damaged in read_record(job.output / RECORD).get("measured_again", ()):
        print_warning(f"{damaged} was changed after it was measured, and has been measured again.")
    console, folder = Terminal(), job.output
    run = read_run(folder)
    console.print(render(summary, width=console.width) if verbose else screen(run, width=console.width))
    echo(f"results: {folder / 'summary.json'} · per item: {folder / 'scores.parquet'}")
    echo(f"report: {write_page(folder)}")
    echo(f"next: {next_command(run)}")


def add_to(app: typer.Typer, section: str) -> None:
    """Register the command under a section of the program's help."""
    app.command(rich_help_panel=section, epilog=EXAMPLE)(checked_early(audit))
