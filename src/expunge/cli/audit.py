"""``expunge audit``: what models still know, at the precision they will be deployed at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from expunge.cli.options import Field, RemoteCode, Seed, fields


def audit(
    models: Annotated[list[str], typer.Argument(help="Folders of the unlearned checkpoints.")],
    forget: Annotated[str | None, typer.Option("--forget", help="What was to be forgotten.")] = None,
    retain: Annotated[
        str | None, typer.Option("--retain", help="What must still be known (utility).")
    ] = None,
    holdout: Annotated[
        str | None, typer.Option("--holdout", help="Texts like the forget set, never trained on (leakage).")
    ] = None,
    neighbours: Annotated[
        str | None, typer.Option("--neighbours", help="Questions close to the forget set that must stay.")
    ] = None,
    second_phrasing: Annotated[
        str | None, typer.Option("--second-phrasing", help="The forget set's questions in other words.")
    ] = None,
    forget_icl: Annotated[
        str | None,
        typer.Option("--forget-icl", help="Solved questions put before those of the forget set."),
    ] = None,
    retain_icl: Annotated[
        str | None,
        typer.Option("--retain-icl", help="Solved questions put before those of the retain set."),
    ] = None,
    probes: Annotated[
        Path | None, typer.Option("--probes", help="Folder with forget.jsonl, retain.jsonl, ... at once.")
    ] = None,
    target: Annotated[str | None, typer.Option("--target", help="The model before unlearning.")] = None,
    retrained: Annotated[
        str | None, typer.Option("--retrained", help="A model trained without the forget set.")
    ] = None,
    quantizer: Annotated[
        list[str] | None,
        typer.Option(
            "--quantize", "-q", help="int8, int4, int4-g64, int3, fp4, nf4, bnb-int8. Repeatable."
        ),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="Only these metrics. Repeatable; default: all.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the audit.")] = Path(
        "runs/audit"
    ),
    max_items: Annotated[
        int, typer.Option("--max-items", min=1, help="Examples asked of each split.")
    ] = 100,
    max_length: Annotated[
        int, typer.Option("--max-length", min=8, help="Tokens of a text read at once.")
    ] = 2048,
    field: Field = None,
    seed: Seed = 0,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Models measured side by side.")] = 1,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Measure models at full precision and under quantizers, with intervals and a verdict.

    Give the target and a retrained control if you have them: without the target there is no verdict,
    without the control no PrivLeak. What is finished is kept: a killed audit goes on, a finished one
    answers at once.

    Example:  expunge audit ./unlearned --target ./model --forget f.jsonl --retain r.jsonl -q int4 -q nf4
    """
    from expunge.audit.job import AuditJob
    from expunge.audit.progress import progress_bar
    from expunge.audit.table import render

    splits = {
        "forget": forget,
        "retain": retain,
        "holdout": holdout,
        "neighbours": neighbours,
        "second_phrasing": second_phrasing,
        "forget_icl": forget_icl,
        "retain_icl": retain_icl,
    }
    job = AuditJob(
        models=tuple(models),
        output=output,
        splits={name: source for name, source in splits.items() if source},
        probes=probes,
        target=target,
        retrained=retrained,
        quantizers=tuple(quantizer or ()),
        metrics=tuple(metric or ()),
        fields=fields(field),
        max_items=max_items,
        max_length=max_length,
        seed=seed,
        workers=workers,
        trust_remote_code=trust_remote_code,
    )
    with progress_bar(Console(stderr=True)) as progress:
        summary = job.run(progress)
    console = Console()
    console.print(render(summary, width=console.width))
    typer.echo(f"numbers: {output / 'summary.json'} · every item: {output / 'scores.parquet'}")


def add_to(app: typer.Typer) -> None:
    """Make the verb known."""
    app.command()(audit)
