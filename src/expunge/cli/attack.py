"""``expunge attack``: try to bring back what a model forgot, beside the target and the control."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.options import Field, RemoteCode, Seed, Template, fields
from expunge.terminal import Terminal, echo

Attacks = Annotated[
    list[str],
    typer.Option(
        "--attack",
        "-a",
        help="relearn, gcg, ablate, in_context, prune; settings after a colon: relearn:on=benign,steps=5.",
    ),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", help="Only these: NAME or NAME:setting=value. Repeatable."),
]


def attack(
    models: Annotated[list[str], typer.Argument(help="Unlearned checkpoints.")],
    target: Annotated[str, typer.Option("--target", help="The model before unlearning.")],
    attacks: Attacks,
    retrained: Annotated[
        str | None, typer.Option("--retrained", help="A control trained without the forget set.")
    ] = None,
    forget: Annotated[str | None, typer.Option("--forget", help="What was to go.")] = None,
    retain: Annotated[str | None, typer.Option("--retain", help="What was to stay.")] = None,
    probes: Annotated[
        Path | None, typer.Option("--probes", help="A folder with <split>.jsonl files.")
    ] = None,
    metric: Metrics = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")] = Path(
        "runs/attack"
    ),
    max_items: Annotated[
        int | None, typer.Option(min=1, help="Examples asked of each split (100).")
    ] = None,
    max_length: Annotated[int, typer.Option(min=8, help="Tokens of a text read at once.")] = 2048,
    field: Field = None,
    template: Template = None,
    seed: Seed = 0,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Attack unlearned models, the target and the control with the same budget, and compare what they say.

    Without a control nobody can tell a leak from what one who never knew would learn under the attack.
    A run that was stopped goes on when the same command is given again.

    Example:  expunge attack ./unlearned --target ./model --retrained ./control --forget f.jsonl
    --retain r.jsonl --attack relearn --attack gcg:steps=50
    """
    from expunge.audit.attacked import AttackJob
    from expunge.audit.attacked_table import attack_tables
    from expunge.audit.job import AuditJob
    from expunge.audit.worker_status import progress_bar

    splits = {"forget": forget, "retain": retain}
    job = AuditJob(
        models=tuple(models),
        output=output,
        splits={name: file for name, file in splits.items() if file},
        probes=probes,
        target=target,
        retrained=retrained,
        metrics=tuple(metric or ()),
        fields=fields(field, template),
        max_items=max_items,
        max_length=max_length,
        seed=seed,
        trust_remote_code=trust_remote_code,
    )
    with progress_bar(Terminal(stderr=True)) as progress:
        summary = AttackJob(audit=job, attacks=tuple(attacks)).run(progress)
    Terminal().print(attack_tables(summary))
    echo(f"numbers: {output / 'summary.json'} · every item: {output / 'scores.parquet'}")


def add_to(app: typer.Typer) -> None:
    """Make the verb known."""
    app.command()(attack)
