"""What is broken, and the command lines that read it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz import tables, values
from tests.fuzz.values import RAW, WORDS, Draw
from tests.fuzz.commands import AUDIT, METRICS, QUICK, SETS

Breaker = Callable[[bytes], st.SearchStrategy[bytes]]
UNLEARN = ("unlearn", "target", *SETS, "-r", "ga_gdr", *QUICK, "-o", "out")
ASK = ("audit", "target", "--forget", "forget.jsonl", "--metric", "knowmem_forget", "-o", "out")
QUANTIZE = ("quantize", "target", "-q", "int4", "-o", "out")
FINETUNE = ("finetune", "--model", "target", "--data", "forget.jsonl", *QUICK, "-o", "out")
ANCHORS = ("anchors", "forget.jsonl", "--at-least", "1", "-o", "out.json")
ANNOTATE = ("annotate", "forget.jsonl", "-o", "out.jsonl")


@dataclass(frozen=True)
class Input:
    """A malformed input: files to write into the folder (None: removed), and the command line."""

    files: tuple[tuple[str, bytes | None], ...]
    argv: tuple[str, ...]

    @property
    def size(self) -> int:
        """How much of it there is to read."""
        return sum(len(content or b"") for _, content in self.files) + sum(map(len, self.argv))


@dataclass(frozen=True)
class Surface:
    """A kind of input: what of the world it needs, how often it is tried, and how it is drawn."""

    name: str
    needs: tuple[str, ...]
    inputs: int
    draw: Callable[[Path], st.SearchStrategy[Input]]


def lay(world: Path, surface: Surface, scratch: Path, given: Input) -> None:
    """A folder with a copy of what the surface needs and the malformed files in it."""
    for name in surface.needs:
        source = world / name
        if source.is_dir():
            shutil.copytree(source, scratch / name)
        else:
            shutil.copy(source, scratch / name)
    for name, content in given.files:
        path = scratch / name
        if content is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def of_files(
    names: Sequence[str], breaker: Breaker, *commands: Sequence[str]
) -> Callable[[Path], st.SearchStrategy[Input]]:
    """One of some files, broken, read by one of some commands."""

    def make(world: Path) -> st.SearchStrategy[Input]:
        @st.composite
        def input_of(draw: Draw) -> Input:
            name = draw(st.sampled_from(expand(world, names)))
            content = draw(breaker((world / name).read_bytes()))
            return Input(((name, content),), tuple(draw(st.sampled_from(commands))))

        return input_of()

    return make


def expand(world: Path, patterns: Sequence[str]) -> list[str]:
    return sorted(
        path.relative_to(world).as_posix() for pattern in patterns for path in world.glob(pattern)
    )


def data_file(suffix: str, convert: Callable[[list[Any]], bytes], breaker: Breaker) -> Any:
    """The forget set in another form, broken."""

    def make(world: Path) -> st.SearchStrategy[Input]:
        rows = [json.loads(line) for line in (world / "forget.jsonl").read_text().splitlines()]
        content = convert(rows)

        @st.composite
        def input_of(draw: Draw) -> Input:
            command = draw(st.sampled_from([UNLEARN, ANCHORS, ANNOTATE, ASK, FINETUNE]))
            argv = tuple(f"forget{suffix}" if word == "forget.jsonl" else word for word in command)
            return Input(((f"forget{suffix}", draw(breaker(content))),), argv)

        return input_of()

    return make


def as_csv(rows: list[dict[str, str]]) -> bytes:
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    return ("\n".join(lines) + "\n").encode()


RECIPE = {
    "name": "mine",
    "title": "A recipe",
    "paper": "none",
    "needs": ["retain"],
    "stages": [
        {
            "name": "unlearn",
            "forget": {"name": "npo", "beta": 0.1},
            "retain": {"name": "gdr", "weight": 1.0},
            "epochs": 1,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "max_length": 64,
            "scope": {"name": "all"},
        }
    ],
}
YAML = (
    *("2026-01-01", "!!python/object:os.system {}", "!!binary //8=", "&a [*a]", "*b", "{[a]: 1}", "{{a: b}: c}"),
    *("? [a]\n: b", "<<: *a", "1:30:00", ".nan", ".inf", "0x10", "0b2", "1_000", "~", "\t- a", "{a: 1, a: 2}"),
    *("!!set {a, b}", "!!omap [a: 1]", "!!timestamp x", "!!int x", "!!float x", "!!bool x", "!!str 1", "%YAML 9.9"),
    *("- " * 3000 + "a", "[" * 20_000, "{a: " * 5000, "---\n---\n", "a: b: c", "'", '"\\x', "@", "`", "|", ">-"),
    *("2026-99-99", "12:99", "1e400", "0o99", "=", "!!null x", "!", "!!map [1]", "!!seq {a: 1}", "&a", "-", "?"),
)
LAUGHS = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else '1'}]" for n in range(12))
KEYS = (
    *("forget.beta", "epochs", "batch_size", "learning_rate", "max_length", "stages.0.epochs", "stages.1.epochs"),
    *("stages.²", "stages.-1", "stages", "stages.0", "name", "needs", "", ".", "a..b", "forget", "retain.weight"),
    *("stages.0.forget.name", "stages.99999999999999999999.epochs", "scope", "adversary", "\x1b[31m", "é", "stop"),
    *("schedule", "warmup_steps", "betas", "optimizer", "save_every", "seed", "stages.0.forget.beta.x", "title"),
)


def recipe_file(world: Path) -> st.SearchStrategy[Input]:
    content = json.dumps(RECIPE).encode()

    @st.composite
    def input_of(draw: Draw) -> Input:
        how = draw(st.sampled_from(["json", "json", "json", "bytes", "yaml", "yaml", "laughs"]))
        if how == "json":
            text = draw(values.broken_json(content))
        elif how == "bytes":
            text = draw(values.broken_bytes(content))
        elif how == "laughs":
            text = LAUGHS.encode()
        else:
            odd = draw(st.sampled_from(YAML))
            key = draw(st.sampled_from(["name", "stages", "needs", odd]))
            text = f"{key}: {odd}\n".encode("utf-8", "surrogatepass")
        argv = tuple({"ga_gdr": "mine.yaml"}.get(word, word) for word in UNLEARN[:-8]) + UNLEARN[-2:]
        return Input((("mine.yaml", text),), draw(st.sampled_from([argv, ("methods", "mine.yaml")])))

    return input_of()


def overrides(world: Path) -> st.SearchStrategy[Input]:
    @st.composite
    def input_of(draw: Draw) -> Input:
        key, odd = draw(st.sampled_from(KEYS)), draw(st.sampled_from((*YAML, *RAW, *WORDS)))
        pair = draw(st.sampled_from([f"{key}={odd}", f"{key}={odd}", f"{key}={odd}", key, odd]))
        command = draw(st.sampled_from([UNLEARN, UNLEARN, FINETUNE, PLAN]))
        option = draw(st.sampled_from(["--set", "--set", "--set", "--field"]))
        if command is PLAN:
            option = draw(st.sampled_from(["--set", "--size"]))
        return Input((), (*command, f"{option}={typed(pair)}"))

    return input_of()


PLAN = ("shards", "plan", "--data", "retain.jsonl", "--model", "target", "--shards", "1", "-o", "out")


def typed(word: str) -> str:
    """What can be typed: no NUL, and not longer than the system passes on."""
    return word.replace("\x00", "")[:100_000]


def options(world: Path) -> st.SearchStrategy[Input]:
    """Valid commands with one option more, whose value makes no sense."""
    commands = [UNLEARN, ASK, QUANTIZE, FINETUNE, ANCHORS, ANNOTATE, PLAN, *SHARDS, *REPORTS, *ATTACKS]

    @st.composite
    def input_of(draw: Draw) -> Input:
        command = draw(st.sampled_from(commands))
        option = draw(st.sampled_from(OPTIONS[command[0]]))
        odd = typed(draw(st.sampled_from((*WORDS, *NUMBERS, *SPECS, *RAW[:20]))))
        kept = [word for word in command if word != option]
        return Input((), (*kept, f"{option}={odd}"))

    return input_of()


NUMBERS = ("0", "-1", "1", "2", "3", "1000000000", "9" * 30, "1.5", "0.0001", "1e400", "-inf", "²", "٣")
SPECS = (
    *("int8", "int4-g64", "int4-g0", "int99", "int-1", "nf4", "fp4-g7", "gptq4-g128", "gptq4-g1", "awq", "gguf"),
    *("NAME:", ":", "a:b=c", "knowmem_forget:x=1", "knowmem_forget:max_new_tokens=", "relearn:steps=1e9", "gcg:"),
    *("prune:share=2", "target,one", "a=target,one", "x=", "=x", "forget.jsonl", "target", "plan", "nowhere", "-"),
    *("tofu-forget10", "muse-news", "self", "retain", "hidden=1000000000", "hidden=-1", "layers=99999999", "a.b.c=1"),
)
SHARDS = (
    ("shards", "verify", "plan"),
    ("shards", "train", "plan"),
    ("shards", "delete", "plan", "--id", "e1"),
    ("shards", "predict", "plan", "--data", "forget.jsonl", "-o", "out.jsonl"),
    ("shards", "fair", "votes.jsonl"),
)
REPORTS = (
    ("report", "audit", "-o", "out.html"),
    ("report", "audit", "-f", "md", "-o", "out.md"),
    ("report", "audit", "-f", "csv", "-o", "out.csv"),
    ("report", "audit", "-f", "json", "-o", "out.json"),
    ("report", "audit", "--reveal", "-o", "out.html"),
    ("report", "audit", "audit", "-o", "out.html"),
    ("report", "audit", "-f", "svg", "-o", "figures"),
    ("runs", "."),
    ("inspect", "audit", "--host", "203.0.113.1", "--no-browser"),
)
ATTACKS = (
    *(("merge", "target", "--out", "out"), ("ledger", "two"), ("attack", "one", "--target", "target", "-a", "prune")),
)
COMMON = ("--seed", "--output", "--field", "--nonsense", "--max-items", "--max-length", "--overwrite")
OPTIONS = {
    "unlearn": (*COMMON, "--forget", "--retain", "--holdout", "--still", "--recipe", "--save-dtype"),
    "audit": (
        *(*COMMON, "--forget", "--retain", "--holdout", "--probes", "--benchmark", "--data", "--target", "--quantize"),
        *("--metric", "--calibrate", "--calibration-samples", "--calibration-length", "--seeds-of", "--retain-icl"),
        *("--forget-icl", "--neighbours", "--second-phrasing", "--workers"),
    ),
    "quantize": (*COMMON, "--quantize", "-q", "--format", "--calibrate", "--calibration-samples", "--output"),
    "finetune": (*COMMON, "--data", "--tokenizer", "--size", "--model"),
    "anchors": (*COMMON, "--spacy", "--at-least"),
    "annotate": (*COMMON, "--kind", "--at-least", "--spacy", "--model", "--reference", "--below"),
    "shards": (
        *(*COMMON, "--shards", "--slices", "--owners", "--near", "--deal", "--size", "--set", "--workers", "--executor"),
        *("--id", "--group", "--data", "--by", "--max-new-tokens", "--head", "--heldout", "--constraint", "--method"),
        *("--slack", "--address"),
    ),
    "report": (*COMMON, "--format"),
    "runs": (*COMMON,),
    "inspect": (*COMMON, "--port", "--budget", "--host"),
    "merge": (*COMMON, "--add", "--subtract", "--contrast", "--keep", "--fuse", "--out"),
    "ledger": (*COMMON, "--gather"),
    "attack": (*COMMON, "--attack", "--retrained", "--forget", "--retain", "--probes", "--metric"),
}
DATA = ("target", "forget.jsonl", "retain.jsonl")
EVERYTHING = (*DATA, "one", "two", "audit", "plan", "start", "votes.jsonl", "anchors.json", "second.jsonl")
MODEL = (UNLEARN, ASK, QUANTIZE, FINETUNE)
PARTS = tuple(tuple("parts" if word == "target" else word for word in command) for command in MODEL)
RESUME = (*AUDIT, "-o", "audit")
JSON = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json")
REQUESTED = (
    ("ledger", "two"),
    ("ledger", "two", "--gather", "all.jsonl"),
    ("unlearn", "two", "--forget", "forget.jsonl", "-r", "ga", *QUICK, "-o", "out"),
    ("audit", "two", "--forget", "forget.jsonl", *METRICS[:2], "-o", "out"),
    ("runs", "."),
)

SURFACES = (
    Surface("data-jsonl", DATA, 150, data_file(".jsonl", lambda rows: lines(rows), values.broken_lines)),
    Surface("data-json", DATA, 60, data_file(".json", lambda rows: json.dumps(rows).encode(), values.broken_json)),
    Surface("data-csv", DATA, 80, data_file(".csv", as_csv, values.broken_csv)),
    Surface("data-parquet", DATA, 80, data_file(".parquet", tables.as_parquet, tables.broken_parquet)),
    Surface("recipe", DATA, 80, recipe_file),
    Surface("set", DATA, 100, overrides),
    Surface("options", EVERYTHING, 150, options),
    Surface("config", DATA, 120, of_files(["target/config.json"], values.broken_json, *MODEL)),
    Surface("generation", DATA, 40, of_files(["target/generation_config.json"], values.broken_json, *MODEL)),
    Surface("tokenizer", DATA, 120, of_files(["target/tokenizer*.json"], values.broken_json, *MODEL)),
    Surface("weights", DATA, 60, of_files(["target/model.safetensors"], tables.broken_tensors, *MODEL)),
    Surface(
        "index",
        ("parts", *DATA[1:]),
        60,
        of_files(["parts/model.safetensors.index.json", "parts/model.safetensors.index.json", "parts/model-*"],
                 lambda content: (values.broken_json if content[:1] == b"{" else tables.broken_tensors)(content), *PARTS),
    ),
    Surface("run-json", ("audit",), 120, of_files(["audit/*.json"], values.broken_json, *REPORTS)),
    Surface("run-scores", ("audit",), 100, of_files(["audit/scores.parquet"], tables.broken_parquet, *REPORTS)),
    Surface(
        "run-cells", ("audit", "one", *DATA), 60, of_files(["audit/cells/*.parquet"], tables.broken_parquet, RESUME)
    ),
    Surface(
        "run-notes",
        ("audit", "one", *DATA),
        40,
        of_files(["audit/cells/*.json", "audit/record.json", "one/record.json"], values.broken_json, RESUME),
    ),
    Surface("plan", ("plan", "start", "forget.jsonl"), 80, of_files(["plan/plan.json"], values.broken_json, *SHARDS[:4])),
    Surface(
        "plan-ledger", ("plan", "start", "forget.jsonl"), 80,
        of_files(["plan/ledger.sqlite"], tables.broken_ledger, *SHARDS[:4]),
    ),
    Surface(
        "plan-slices", ("plan", "start", "forget.jsonl"), 40,
        of_files(["plan/shard-*/*.jsonl"], values.broken_lines, *SHARDS[:4]),
    ),
    Surface(
        "plan-state", ("plan", "start", "forget.jsonl"), 40,
        of_files(["plan/shard-*/*/state.json"], values.broken_json, *SHARDS[:4]),
    ),
    Surface("votes", ("votes.jsonl",), 40, of_files(["votes.jsonl"], values.broken_lines, SHARDS[4])),
    Surface(
        "requests", ("two", *DATA, "second.jsonl"), 80,
        of_files(["two/ledger.jsonl", "two/ledger.jsonl"], values.broken_lines, *REQUESTED),
    ),
    Surface(
        "request-record", ("two", *DATA, "second.jsonl"), 40,
        of_files(["two/record.json"], values.broken_json, *REQUESTED),
    ),
)
"""Everything that is broken, and how often."""


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
