"""What is killed: commands on tiny models, each with the folder it starts from and what it may leave."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.cli.main import main
from expunge.corpus.formats import write_examples
from expunge.model.load import save_model
from expunge.report.page import render
from expunge.report.run import read_run
from expunge.shards.folder import PlanFolder
from expunge.shards.verify import problems
from tests.shards.plans import EXAMPLES, start
from tests.train.runs import FORGET, HOLDOUT, RETAIN, TOKENIZER, model

CHANGING = {
    "started",
    "seconds",
    "cpu_seconds",
    "peak_memory_mib",
    "time",
    "hash",
    "before",
    "earlier",
    "parts",
}
"""Facts of a record that differ between two equal runs: what they took, and what was done before."""
MINE = "years of work"


@dataclass(frozen=True)
class Scenario:
    """Command lines in the folder of a case, and what must be there before and after them.

    ``before`` are commands whose results are replaced; ``plan`` is the folder of a plan, if it has one.
    """

    name: str
    commands: Sequence[str]
    before: Sequence[str] = ()
    plan: str | None = None

    def prepare(self, folder: Path, inputs: Path) -> None:
        """Fill a new folder with the inputs, and with something of the user's."""
        shutil.copytree(inputs, folder)
        (folder / "thesis.txt").write_text(MINE)
        for command in self.before:
            assert run(command, folder) == 0, command

    def work(self, folder: Path, *, again: bool = False) -> None:
        """Carry the commands out; done ``again``, one may say that its output exists, and does."""
        for command in self.commands:
            code = run(command, folder)
            assert code == 0 or (code == 2 and again and "-o" in command), command


def run(command: str, folder: Path) -> int:
    """The exit code of a command line, in this process; ``@`` stands for the folder."""
    return main(command.replace("@", str(folder)).split())


TEXTS = "--forget @/f.jsonl --retain @/r.jsonl"
UNLEARN = f"unlearn @/target --recipe ga_gdr {TEXTS} --set save_every=1 -o @/out"
AUDIT = (
    f"audit @/other --target @/target {TEXTS} --metric knowmem_forget --max-length 128 -q int8 -o @/audit"
)
PLAN = "shards plan --data @/all.jsonl --model @/start --shards 2 --slices 2 --set epochs=2 -o @/plan"
SCENARIOS = (
    Scenario("unlearn", [f"{UNLEARN} --set epochs=3"]),
    Scenario(
        "unlearn over", [f"{UNLEARN} --set epochs=3 --overwrite"], before=[f"{UNLEARN} --set epochs=1"]
    ),
    Scenario("audit", [AUDIT]),
    Scenario("quantize", ["quantize @/target --to int4 --format values -o @/small"]),
    Scenario(
        "quantize over",
        ["quantize @/target --to int4 --format values -o @/small --overwrite"],
        before=["quantize @/target --to int8 --format values -o @/small"],
    ),
    Scenario("gguf", ["quantize @/wide --to gguf-q8_0 -o @/small.gguf"]),
    Scenario(
        "gguf over",
        ["quantize @/wide --to gguf-q8_0 -o @/small.gguf --overwrite"],
        before=["quantize @/wide --to gguf-q4_0 -o @/small.gguf"],
    ),
    Scenario("shards plan", [PLAN], plan="plan"),
    Scenario("shards train", ["shards train @/plan"], before=[PLAN], plan="plan"),
    Scenario(
        "shards delete",
        ["shards delete @/plan --id e2"],
        before=[PLAN, "shards train @/plan"],
        plan="plan",
    ),
    Scenario("merge", ["merge @/target --add @/other:0.5 -o @/merged"]),
    Scenario("report", ["report @/audit", "report @/audit --format md"], before=[AUDIT]),
    Scenario(
        "report over",
        ["report @/audit -o @/page.html --overwrite"],
        before=[AUDIT, "report @/audit -o @/page.html"],
    ),
)


def make_inputs(folder: Path) -> None:
    """Models and texts that all scenarios read."""
    folder.mkdir(parents=True)
    save_model(model(), TOKENIZER, folder / "target")
    save_model(model(seed=1), TOKENIZER, folder / "other")
    save_model(model(hidden_size=32, intermediate_size=64), TOKENIZER, folder / "wide")
    start(folder / "start")
    write_examples(folder / "f.jsonl", FORGET)
    write_examples(folder / "r.jsonl", RETAIN)
    write_examples(folder / "h.jsonl", HOLDOUT)
    write_examples(folder / "all.jsonl", EXAMPLES)


def snapshot(folder: Path) -> dict[str, str]:
    """Every file by its path, and the hash of what does not change between two equal runs."""
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return {str(path.relative_to(folder)): _content(path, folder) for path in files}


def _content(path: Path, folder: Path) -> str:
    whole = path.read_bytes()
    if path.name in ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"):
        return "a database"  # compared event by event
    whole = whole.replace(str(folder).encode(), b"@")
    if path.suffix in (".json", ".jsonl"):
        lines = whole.splitlines() if path.suffix == ".jsonl" else [whole]
        return json.dumps([_steady(json.loads(line)) for line in lines], sort_keys=True)
    if path.name == "report.html" and path.read_text() == render(read_run(path.parent), reveal=False):
        return "the page of this very audit"  # which tells what it took
    return hashlib.sha256(whole).hexdigest()


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _steady(each) for name, each in value.items() if name not in CHANGING}
    return [_steady(each) for each in value] if isinstance(value, list) else value


def events(plan: Path) -> list[Any]:
    """What a plan's ledger holds, without times and hashes of entries."""
    found = [[event.kind, _steady(dict(event.facts))] for event in PlanFolder(plan).ledger.events()]
    return sorted(found, key=json.dumps)


def wrong_with(plan: Path) -> list[str]:
    return problems(PlanFolder(plan))
