"""Help is instant: nothing heavy is imported to print it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from expunge.cli.main import app

HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "scipy",
    "pyarrow",
    "tokenizers",
    "safetensors",
    "peft",
)
PRINT_EVERY_HELP = f"""
import contextlib, io, sys
from expunge.cli.main import main
for command in {{commands}}:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(command) == 0, command
    assert out.getvalue(), command
print(*(name for name in {HEAVY!r} if name in sys.modules))
"""


def verbs() -> list[str]:
    return [command.callback.__name__ for command in app.registered_commands if command.callback]


def imported_by(commands: list[list[str]]) -> str:
    code = PRINT_EVERY_HELP.format(commands=commands)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_help_imports_anything_heavy() -> None:
    assert {"demo", "unlearn", "audit", "metrics"} <= set(verbs())
    helps = [[verb, "--help"] for verb in verbs()]
    assert (
        imported_by(
            [
                ["--help"],
                ["--version"],
                ["methods"],
                ["methods", "ga"],
                ["metrics"],
                ["metrics", "auc"],
                *helps,
            ]
        )
        == ""
    )


UNUSED = ("sklearn", "pandas", "scipy", "torchao", "datasets", "bitsandbytes", "lm_eval")
START = f"""
import contextlib, io, sys
from expunge.cli import main
sys.argv = ["expunge", "--debug", "methods", "--axes"]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main.run()
import expunge.audit.run.job, expunge.quant.export, expunge.train.run.job
print(*(name for name in {UNUSED!r} if name in sys.modules))
"""


@pytest.mark.slow
def test_no_verb_imports_what_it_does_not_use_or_prints_what_libraries_say() -> None:
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("unlearn ./nosuch --forget f.jsonl", "no folder nosuch"),
        ("unlearn . --forget no.jsonl", "no.jsonl"),
        ("unlearn . --forget f.jsonl --retain no.jsonl", "no.jsonl"),
        ("unlearn . --forget f.jsonl --retain self -r nosuch", "no recipe of that name"),
        ("unlearn . --forget f.jsonl --retrained ./nosuch", "no folder nosuch"),
        ("unlearn . --forget f.jsonl -o f.jsonl", "f.jsonl"),
        ("audit ./nosuch --forget f.jsonl", "no folder nosuch"),
        ("audit . --forget no.jsonl", "no.jsonl"),
        ("audit . --target ./nosuch --forget f.jsonl", "no folder nosuch"),
        ("attack . --target ./nosuch", "no folder nosuch"),
        ("report nosuch", "nosuch"),
        ("runs nosuch", "nosuch"),
    ],
)
def test_wrong_moves_are_refused_before_torch_is_imported(typed: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text('{"text": "a"}\n')
    code = f"import sys; from expunge.cli.main import main; code = main({typed.split()!r}); "
    code += "print(code, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == ["2", "False"], done.stderr
    assert says in " ".join(done.stderr.split())
