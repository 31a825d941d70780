"""``expunge shards``: sharded training (SISA) with exact deletion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expunge.cli.launched import train_in_one_process
from expunge.cli.options import Field, Output, Seed, Template, fields, print_done, print_next, print_warning
from expunge.terminal import echo

if TYPE_CHECKING:
    from expunge.shards.building import Build

Plan = Annotated[Path, typer.Argument(help="Folder of the plan.")]
Workers = Annotated[int, typer.Option(min=1, help="Shards trained in parallel, one thread each.")]
Runner = Annotated[str, typer.Option(help="processes, or ray (a cluster; needs the extra 'ray').")]
Address = Annotated[str | None, typer.Option(help="Address of the Ray cluster. Default: a local one.")]
SHOWN = 5
By = Annotated[str, typer.Option(help="Aggregation over shards: probability (mean) or vote.")]

Sizes = Annotated[
    list[str] | None,
    typer.Option("--size", help="Start from random weights: --size hidden=64 --size layers=2."),
]

shards = typer.Typer(
    help="Train in shards and slices, so that deletion retrains only what has seen the example.",
    no_args_is_help=True,
    callback=train_in_one_process,
)


@shards.command()
def plan(
    data: Annotated[list[str], typer.Option("--data", help="Training data. Repeatable.")],
    model: Annotated[
        str,
        typer.Option("--model", help="Checkpoint to start from; must not have been trained on the data."),
    ],
    output: Output,
    number: Annotated[int, typer.Option("--shards", min=1, help="Number of shards (models).")] = 4,
    slices: Annotated[int, typer.Option(min=1, help="Slices per shard, with a checkpoint after each.")] = 4,
    owners: Annotated[
        str, typer.Option(help="together: keep a group in one slice; spread: distribute it.")
    ] = ("together"),
    near: Annotated[
        float, typer.Option(help="Jaccard index from which texts count as near duplicates.")
    ] = 0.8,
    deal: Annotated[
        str, typer.Option(help="even: equal sizes; hashed: by each owner's hash alone.")
    ] = "even",
    scratch: Sizes = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Training setting: --set epochs=20 --set lora.rank=8. Repeatable."),
    ] = None,
    field: Field = None,
    template: Template = None,
    seed: Seed = 0,
) -> None:
    """Assign examples to shards and slices, keeping near duplicates and owners together.

    Example:  expunge shards plan --data all.jsonl --model ./base --set lora.rank=8 -o ./plan
    """
    from expunge.shards.making import plan_job

    facts = plan_job(
        data=tuple(data),
        model=model,
        output=output,
        cut={
            "shards": number,
            "slices": slices,
            "owners": owners,
            "near": near,
            "deal": deal,
            "seed": seed,
        },
        sizes=scratch,
        settings=settings or (),
        fields=fields(field, template),
    ).run()
    for owner, places in facts["spread"].items():
        print_warning(
            f"{owner} is in shards {', '.join(map(str, places))}: deleting all of it retrains each of them."
        )
    print_done(
        f"{facts['examples']} examples in shards of {', '.join(map(str, facts['shards']))}, "
        f"{facts['near_duplicates']} of them near duplicates; deleting one repeats "
        f"{facts['share_per_deletion']:.1%} of the training: {output}"
    )
    print_next("expunge", "shards", "train", output)


@shards.command()
def train(
    folder: Plan, workers: Workers = 1, executor: Runner = "processes", address: Address = None
) -> None:
    """Train all slices that are missing; resumes after an interruption.

    Example:  expunge shards train ./plan --workers 4
    """
    built = _build(folder, workers, executor, address).run()
    print_done(
        f"{built.slices} slices of {built.shards} shards trained, {built.examples} examples read: {folder}"
    )
    if built.deletions:
        echo(f"{built.deletions} deletions requested earlier were completed.")
    print_next("expunge", "shards", "delete", folder, "--id", "ID")


@shards.command()
def delete(
    folder: Plan,
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="Id of an example to delete. Repeatable.")
    ] = None,
    group: Annotated[
        list[str] | None, typer.Option(help="Delete all examples of an owner. Repeatable.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="File of examples to delete; matched exactly.")] = None,
    near: Annotated[
        bool, typer.Option("--with-near-duplicates", help="Also delete near duplicates.")
    ] = False,
    workers: Workers = 1,
    executor: Runner = "processes",
    address: Address = None,
    field: Field = None,
    template: Template = None,
) -> None:
    """Delete examples and retrain the slices that saw them, as if they had never been in the data.

    Example:  expunge shards delete ./plan --group "Mira Oswick"
    """
    from expunge.corpus.readers import read_examples
    from expunge.shards.building import Deletion

    examples = tuple(read_examples(data, fields=fields(field, template))) if data else ()
    done = Deletion(ids=tuple(ids or ()), groups=tuple(group or ()), examples=examples, with_near=near).run(
        _build(folder, workers, executor, address)
    )
    if done.before:
        print_warning(f"{len(done.before)} of them had been deleted before.")
    if done.stay:
        more = " ..." if len(done.stay) > SHOWN else ""
        print_warning(f"{len(done.stay)} near duplicates are kept: {', '.join(done.stay[:SHOWN])}{more}")
    print_done(
        f"{len(done.ids)} examples deleted, {done.built.examples} examples read to retrain: {folder}"
    )
    echo(f"ledger: {done.head}")
    print_next("expunge", "shards", "verify", folder, "--head", done.head)


@shards.command()
def predict(
    folder: Plan,
    data: Annotated[
        str, typer.Option(help="Questions; with wrong answers, the shards also vote on the choices.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSONL file to write.")],
    by: By = "probability",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens per answer.")] = 32,
    field: Field = None,
    template: Template = None,
) -> None:
    """Predict with the ensemble: greedy text, log-probability of the completion, votes on choices.

    Example:  expunge shards predict ./plan --data questions.jsonl -o answers.jsonl
    """
    from expunge.shards.making import prediction

    rows = prediction(
        folder,
        data=data,
        output=output,
        by=by,
        max_new_tokens=max_new_tokens,
        fields=fields(field, template),
    ).run()
    print_done(f"{len(rows)} answers: {output}")
    print_next("expunge", "shards", "fair", output)


@shards.command()
def verify(
    folder: Plan,
    head: Annotated[str | None, typer.Option(help="Ledger hash noted earlier, to compare with.")] = None,
    replay: Annotated[bool, typer.Option("--replay", help="Also retrain and compare all bytes.")] = False,
    workers: Workers = 1,
) -> None:
    """Check hashes, the ledger's chain, and that no slice contains deleted text.

    Example:  expunge shards verify ./plan --head 3f09...
    """
    from expunge.shards.verify import verified

    facts = verified(folder, head=head, replay=replay, workers=workers)
    if facts["unhashed"] and not replay:
        print_warning(
            f"{facts['unhashed']} slices were trained by an earlier version, whose ledger only holds "
            "hashes of weights: --replay also compares the optimizer's files."
        )
    print_done(
        f"{facts['events']} entries, {facts['examples']} examples, {facts['deleted']} deleted: {folder}"
    )
    echo(f"ledger: {facts['head']}")


@shards.command()
def fair(
    calibration: Annotated[
        Path, typer.Argument(help="Predictions with votes, label and group, from 'shards predict'.")
    ],
    heldout: Annotated[Path | None, typer.Option(help="Held-out predictions to evaluate on.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Predictions to apply the rule to; needs --output.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File of decisions to write.")
    ] = None,
    only: Annotated[
        str, typer.Option("--constraint", help="odds (equalised), or opportunity (true positives only).")
    ] = ("odds"),
    method: Annotated[str, typer.Option(help="Where to correct: pre, in or post aggregation.")] = "in",
    slack: Annotated[float, typer.Option(min=0, help="Gap allowed on the calibration set.")] = 0.0,
) -> None:
    """Equalise true and false positive rates across groups, before, in or after the shards' vote.

    Example:  expunge shards fair votes.jsonl --heldout more.jsonl
    """
    from expunge.shards.fairness import FairJob

    report: dict[str, Any] = FairJob(
        calibration=calibration,
        heldout=heldout,
        data=data,
        output=output,
        constraint=only,
        slack=slack,
        method=method,
    ).run()
    echo(report["table"])
    if output is not None:
        print_done(f"{report['decided']} decisions: {output}")


def _build(folder: Path, workers: int, executor: str, address: str | None) -> Build:
    from expunge.shards.making import build_of

    return build_of(folder, executor=executor, workers=workers, address=address)


def add_to(app: typer.Typer, section: str) -> None:
    """Register the command under a section of the program's help."""
    app.add_typer(shards, name="shards", rich_help_panel=section)
