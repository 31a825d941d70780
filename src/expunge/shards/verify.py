"""Check a plan from its files: nothing that it says of itself is taken on trust."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.errors import OutputError
from expunge.model.load import hash_model, load_model, load_tokenizer
from expunge.record import hash_file
from expunge.scratch import temporary_folder
from expunge.shards.building import Build, unfinished
from expunge.shards.executors import Executor, executor_for
from expunge.shards.folder import LOCK, OPTIMIZER, WEIGHTS, PlanFolder, write_plan
from expunge.shards.ledger import broken_links
from expunge.shards.making import hash_tokenizer
from expunge.shards.plan import ExampleRow, content_of
from expunge.shards.shard import read_state

HASHED = {"weights": WEIGHTS, "optimizer": OPTIMIZER}
"""What the ledger calls the hash of each file of a slice."""
ARE_NOT = {"weights": "are not those", "optimizer": "is not that", "state": "is not that"}


def problems(plan: PlanFolder, *, head: str | None = None) -> list[str]:
    """What is wrong with a plan, in words; nothing if it is as its ledger says.

    Checked: the ledger's chain (and that it still holds ``head``), the manifest, the start, that every
    slice holds exactly the texts it should and no deleted one, that nothing else is there and
    the weights the ledger knows, and the hashes of weights, optimizer and state of each.
    """
    events = plan.ledger.events()
    rows = plan.rows()
    messages = broken_links(events, head=head)
    if not events or events[0].kind != "planned" or events[0].facts["manifest"] != plan.manifest.sha256:
        messages.append("manifest: it is not the one the ledger begins with")
    messages += _start(plan)
    for shard, keys in enumerate(plan.keys(rows)):
        messages += _texts(plan, shard, rows)
        messages += _weights(plan, shard, keys)
    messages += [
        f"ledger: the deletion asked for in entry {event.number} is not completed"
        for event in unfinished(plan)
    ]
    return messages


def replayed(plan: PlanFolder, executor: Executor) -> list[str]:
    """Train the plan anew, from its start and only on the texts it still has, and compare byte by byte.

    Equal weights prove that nothing else had a part in them; it costs as much as the training did.
    """
    rows = plan.rows()
    held = [
        example
        for shard in range(plan.manifest.cut.shards)
        for piece in range(plan.manifest.cut.slices)
        for example in plan.examples(shard, piece)
    ]
    with temporary_folder("replay") as scratch:
        fresh = plan.manifest.model_copy(
            update={
                "rows": tuple(rows),
                "start": plan.manifest.start.model_copy(update={"folder": str(plan.start.absolute())}),
            }
        )
        write_plan(scratch / "fresh", fresh, held)
        again = PlanFolder(scratch / "fresh")
        Build(plan=again, executor=executor).run()
        return [
            f"shard {shard}, slice {piece}: it is not what training without what was deleted gives"
            for shard, keys in enumerate(plan.keys(rows))
            for piece, key in enumerate(keys)
            if not _same(plan.weights(shard, piece, key), again.weights(shard, piece, key))
        ]


def _same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same weights, moments, random numbers and state but for the seconds."""
    names = (WEIGHTS, OPTIMIZER)
    if not one.exists() or any(hash_file(one / name) != hash_file(other / name) for name in names):
        return False
    return read_state(one)._replace(seconds=0) == read_state(other)._replace(seconds=0)


def _start(plan: PlanFolder) -> list[str]:
    start = plan.manifest.start
    model = load_model(plan.start)
    messages = []
    if hash_model(model) != start.weights:
        messages.append(f"start: the weights in {plan.start} are not those the plan was made with")
    if hash_tokenizer(load_tokenizer(plan.start)) != start.tokenizer:
        messages.append(f"start: the tokenizer in {plan.start} is not that the plan was made with")
    return messages


def _texts(plan: PlanFolder, shard: int, rows: list[ExampleRow]) -> list[str]:
    messages = []
    gone = plan.gone()
    deleted = {row.content for row in plan.manifest.rows if row.id in gone} - {row.content for row in rows}
    for piece in range(plan.manifest.cut.slices):
        held = Counter(content_of(example) for example in plan.examples(shard, piece))
        wanted = Counter(row.content for row in rows if (row.shard, row.slice) == (shard, piece))
        where = f"shard {shard}, slice {piece}"
        if deleted & set(held):
            messages.append(f"{where}: {len(deleted & set(held))} deleted texts are still there")
        elif held != wanted:
            messages.append(
                f"{where}: {sum((held - wanted).values())} texts do not belong there, "
                f"{sum((wanted - held).values())} are missing"
            )
    return messages


def _weights(plan: PlanFolder, shard: int, keys: list[str]) -> list[str]:
    folder = plan.shard(shard)
    known = {event.facts["key"]: event.facts for event in plan.ledger.events("trained")}
    wanted = {plan.weights(shard, piece, key).name: (piece, key) for piece, key in enumerate(keys)}
    texts = {plan.texts(shard, piece).name for piece in range(len(keys))}
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    messages = [
        f"shard {shard}: {name} belongs to no slice as they are now"
        for name in sorted(names - wanted.keys() - texts - {LOCK})
    ]
    for name, (piece, key) in wanted.items():
        where = f"shard {shard}, slice {piece}"
        if name not in names or not (folder / name / WEIGHTS).exists():
            messages.append(f"{where}: it is not trained")
        else:
            messages += [
                f"{where}: its {what} {ARE_NOT[what]} the ledger holds"
                for what in differing(folder / name, known.get(key, {}))
            ]
    return messages


def differing(folder: Path, facts: Mapping[str, Any]) -> list[str]:
    """Which parts of a slice are not as an entry of the ledger says.

    The seconds it took are not compared. An entry of an earlier version holds no hash of the optimizer;
    ``replayed`` compares that, too.
    """
    hashed = {what: file for what, file in HASHED.items() if what == "weights" or facts.get(what)}
    wrong = [
        what
        for what, file in hashed.items()
        if not (folder / file).is_file() or hash_file(folder / file) != facts.get(what)
    ]
    try:
        state = read_state(folder)._asdict()
    except OutputError:
        return [*wrong, "state"]
    same = all(state[name] == facts.get(name, "") for name in state.keys() - {"seconds"})
    return wrong if same else [*wrong, "state"]


def verified(folder: Path, *, head: str | None, replay: bool, workers: int) -> dict[str, Any]:
    """Check a plan, and train it anew if asked; what it comes to in numbers.

    Raises:
        OutputError: something is wrong with it; all of it is named.
    """
    plan = PlanFolder(folder)
    replays = problems(plan, head=head)
    if replay and not replays:
        replays = replayed(plan, executor_for("processes", workers=workers))
    if replays:
        raise OutputError(
            f"{folder} does not match its ledger",
            why=f"{'; '.join(replays)}.",
            fix=f"If it is only unfinished, complete it with: expunge shards train {folder}",
        )
    rows = plan.rows()
    trained = plan.ledger.events("trained")
    keys = {key for shard in plan.keys(rows) for key in shard}
    return {
        "unhashed": sum(e.facts["key"] in keys and not e.facts.get("optimizer") for e in trained),
        "events": len(plan.ledger.events()),
        "examples": len(rows),
        "deleted": len(plan.manifest.rows) - len(rows),
        "head": plan.ledger.head,
    }
