"""``expunge attack``: an audit under attacks, with the metrics that show a leak best."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.audit import (
    Attacks,
    AuditFolder,
    Forget,
    MaxItems,
    MaxLength,
    Metrics,
    ProbesFolder,
    Quantizers,
    Retain,
    Retrained,
    Target,
    Verbose,
    Workers,
    print_audit,
)
from expunge.cli.config_file import Config
from expunge.cli.options import Field, RemoteCode, Seed, Template, checked_early, fields

METRICS = ("probability", "knowmem_forget", "verbmem", "utility")
"""Metrics measured by default; those that lack a split are skipped."""


def attack(
    models: Annotated[list[str], typer.Argument(help="Unlearned checkpoints.")],
    target: Target = None,
    attacks: Attacks = None,
    quantizer: Quantizers = None,
    retrained: Retrained = None,
    forget: Forget = None,
    retain: Retain = None,
    probes: ProbesFolder = None,
    metric: Metrics = None,
    output: AuditFolder = Path("runs/attack"),
    max_items: MaxItems = None,
    max_length: MaxLength = 2048,
    field: Field = None,
    template: Template = None,
    seed: Seed = 0,
    workers: Workers = 1,
    verbose: Verbose = False,
    config: Config = None,  # noqa: ARG001 - read before the others
    trust_remote_code: RemoteCode = False,
) -> None:
    """Attack unlearned models, the target and the control with the same budget.

    Short form of [bold]expunge audit --attack[/] with the metrics most sensitive to leaks. Without a
    control (--retrained), a leak cannot be distinguished from what any model learns under the attack.
    Without --attack it relearns.

    Example:  expunge attack ./unlearned --target ./model --retrained ./control --forget f.jsonl
    --retain r.jsonl --attack relearn --attack gcg:steps=50
    """
    from expunge.audit.run.job import AuditJob

    splits = {"forget": forget, "retain": retain}
    print_audit(
        AuditJob(
            models=tuple(models),
            output=output,
            splits={name: file for name, file in splits.items() if file},
            probes=probes,
            target=target,
            retrained=retrained,
            quantizers=tuple(quantizer or ()),
            attacks=tuple(attacks or ("relearn",)),
            metrics=tuple(metric or METRICS),
            fields=fields(field, template),
            max_items=max_items,
            max_length=max_length,
            seed=seed,
            workers=workers,
            trust_remote_code=trust_remote_code,
        ),
        verbose=verbose,
    )


def add_to(app: typer.Typer, section: str) -> None:
    """Register the command under a section of the program's help."""
    app.command(rich_help_panel=section)(checked_early(attack))
