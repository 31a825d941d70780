"""``expunge shards``: train so that forgetting is exact, and forget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expunge.cli.launched import train_in_one_process
from expunge.cli.options import Field, Output, Seed, Template, fields, print_done, print_warning
from expunge.terminal import echo

if TYPE_CHECKING:
    from expunge.shards.building import Build

Plan = Annotated[Path, typer.Argument(help="Folder of the plan.")]
Workers = Annotated[int, typer.Option(min=1, help="Shards trained at once, one thread each.")]
Runner = Annotated[str, typer.Option(help="processes, or ray (a cluster; extra 'ray').")]
Address = Annotated[
    str | None, typer.Option(help="Of the Ray cluster; by default a Ray of this machine alone.")
]
SHOWN = 5
By = Annotated[str, typer.Option(help="What the shards say together: probability (mean) or vote.")]

shards = typer.Typer(
    help="Train in shards and slices, so that deleting an example retrains only what has seen it.",
    no_args_is_help=True,
    callback=train_in_one_process,
)


@shards.command()
def plan(
    data: Annotated[list[str], typer.Option("--data", help="What will be trained on. Repeatable.")],
    model: Annotated[
        str, typer.Option("--model", help="Checkpoint to start from; it must not have seen the data.")
    ],
    output: Output,
    number: Annotated[int, typer.Option("--shards", min=1, help="Models trained.")] = 4,
    slices: Annotated[int, typer.Option(min=1, help="Steps of each, saved between them.")] = 4,
    owners: Annotated[str, typer.Option(help="together: a group lies in one slice; spread: anywhere.")] = (
        "together"
    ),
    near: Annotated[float, typer.Option(help="Jaccard index from which texts lie together.")] = 0.8,
    deal: Annotated[str, typer.Option(help="even sizes, or hashed: by each owner's hash alone.")] = "even",
    scratch: Annotated[
        list[str] | None,
        typer.Option("--size", help="Begin with random weights: --size hidden=64 --size layers=2."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Of the training: --set epochs=20 --set lora.rank=8. Repeatable."),
    ] = None,
    field: Field = None,
    template: Template = None,
    seed: Seed = 0,
) -> None:
    """Deal examples out to shards and slices, once and for all; near duplicates and owners together.

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
            f"{owner} lies in shards {', '.join(map(str, places))}: deleting all of it touches each."
        )
    print_done(
        f"{facts['examples']} examples in shards of {', '.join(map(str, facts['shards']))}, "
        f"{facts['near_duplicates']} of them near duplicates; deleting one will redo "
        f"{facts['share_per_deletion']:.1%} of the training: {output}"
    )


@shards.command()
def train(
    folder: Plan, workers: Workers = 1, executor: Runner = "processes", address: Address = None
) -> None:
    """Train whatever is missing; after a kill, go on.

    Example:  expunge shards train ./plan --workers 4
    """
    built = _build(folder, workers, executor, address).run()
    print_done(
        f"{built.slices} slices of {built.shards} shards trained, {built.examples} examples read: {folder}"
    )
    if built.deletions:
        echo(f"{built.deletions} deletions asked for earlier are completed.")


@shards.command()
def delete(
    folder: Plan,
    ids: Annotated[list[str] | None, typer.Option("--id", help="Example to delete. Repeatable.")] = None,
    group: Annotated[list[str] | None, typer.Option(help="Delete all of an owner's. Repeatable.")] = None,
    data: Annotated[str | None, typer.Option(help="File of examples to delete, word for word.")] = None,
    near: Annotated[
        bool, typer.Option("--with-near-duplicates", help="And what says nearly the same.")
    ] = False,
    workers: Workers = 1,
    executor: Runner = "processes",
    address: Address = None,
    field: Field = None,
    template: Template = None,
) -> None:
    """Delete examples and retrain what has seen them: the weights become those of never having seen them.

    Example:  expunge shards delete ./plan --group "Mira Oswick"
    """
    from expunge.corpus.readers import read_examples
    from expunge.shards.building import Deletion

    examples = tuple(read_examples(data, fields=fields(field, template))) if data else ()
    done = Deletion(ids=tuple(ids or ()), groups=tuple(group or ()), examples=examples, with_near=near).run(
        _build(folder, workers, executor, address)
    )
    if done.before:
        print_warning(f"{len(done.before)} of them were deleted before.")
    if done.stay:
        more = " ..." if len(done.stay) > SHOWN else ""
        print_warning(f"{len(done.stay)} near duplicates stay: {', '.join(done.stay[:SHOWN])}{more}")
    print_done(
        f"{len(done.ids)} examples deleted, {done.built.examples} examples read to retrain: {folder}"
    )
    echo(f"ledger: {done.head}")


@shards.command()
def predict(
    folder: Plan,
    data: Annotated[str, typer.Option(help="Questions; with wrong answers, the shards also choose.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File of JSON lines to write.")],
    by: By = "probability",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 32,
    field: Field = None,
    template: Template = None,
) -> None:
    """Let all shards answer together: greedy text, log-probability of the completion, votes on choices.

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


@shards.command()
def verify(
    folder: Plan,
    head: Annotated[str | None, typer.Option(help="Hash of the ledger that was noted earlier.")] = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Also train anew and compare every byte.")
    ] = False,
    workers: Workers = 1,
) -> None:
    """Check hashes, the ledger's chain, and that no deleted text lies in any slice.

    Example:  expunge shards verify ./plan --head 3f09...
    """
    from expunge.shards.verify import verified

    facts = verified(folder, head=head, replay=replay, workers=workers)
    if facts["unhashed"] and not replay:
        print_warning(
            f"{facts['unhashed']} slices were trained by an earlier version, whose ledger holds hashes of "
            "weights only: --replay compares the optimizer's files, too."
        )
    print_done(
        f"{facts['events']} entries, {facts['examples']} examples, {facts['deleted']} deleted: {folder}"
    )
    echo(f"ledger: {facts['head']}")


@shards.command()
def fair(
    calibration: Annotated[
        Path, typer.Argument(help="Predictions with votes, label and group (shards predict).")
    ],
    heldout: Annotated[Path | None, typer.Option(help="Others like them, to measure on.")] = None,
    data: Annotated[Path | None, typer.Option(help="Predictions to decide; needs --output.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File of decisions to write.")
    ] = None,
    only: Annotated[
        str, typer.Option("--constraint", help="odds, or opportunity (true positives only).")
    ] = ("odds"),
    method: Annotated[str, typer.Option(help="What decides: pre, in or post aggregation.")] = "in",
    slack: Annotated[float, typer.Option(min=0, help="Gap that is allowed on the calibration set.")] = 0.0,
) -> None:
    """Equalise true and false positive rates of the groups, before, in or after the shards' vote.

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


def add_to(app: typer.Typer) -> None:
    """Make the verb known."""
    app.add_typer(shards, name="shards")
