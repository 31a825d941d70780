"""``expunge sweep``: every recipe with every seed, one audit, resumable, and nothing mixed into it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from expunge.bench.sweep import Variant
from expunge.cli.sweep import parse_seeds
from expunge.errors import RecipeError
from expunge.report.latex import to_latex
from expunge.report.run import read_run
from tests.bench.conftest import in_one_thread
from tests.cli.conftest import expunge

__all__ = ["in_one_thread"]
pytestmark = pytest.mark.usefixtures("in_one_thread")

QUICK = ("--set", "epochs=1", "--set", "max_length=64", "--max-length", "64", "--workers", "1")
SETS = ("--forget", "forget.jsonl", "--retain", "retain.jsonl", "--retrained", "retrained")
METRICS = ("--metric", "exact_memorisation", "--metric", "utility")


@pytest.mark.parametrize(
    ("text", "seeds"), [("0", (0,)), ("0-2", (0, 1, 2)), ("3,1", (3, 1)), ("0-1,1-2, 7", (0, 1, 2, 7))]
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "x", "2-0", "-1", "0-", "1,,2", "0-99999999", "²", "1.5"])
def test_what_are_no_seeds(text: str) -> None:
    with pytest.raises(RecipeError, match="not a list of at most 1000 seeds"):
        parse_seeds(text)


def test_a_recipe_with_settings_has_a_name_of_its_own() -> None:
    assert Variant.of("npo", ("epochs=1",)) == Variant("npo", "npo", ("epochs=1",))
    changed = Variant.of("npo:forget.beta=0.2,epochs=3", ("epochs=1",))
    assert changed == Variant(
        "npo-forget.beta-0.2-epochs-3", "npo", ("epochs=1", "forget.beta=0.2", "epochs=3")
    )
    assert Variant.of("mine/own.yaml:epochs=3", ()) == Variant(
        "own-epochs-3", "mine/own.yaml", ("epochs=3",)
    )


def test_two_recipes_with_two_seeds_are_two_rows(owner: Path) -> None:
    line = ("sweep", "target", *SETS, *QUICK, *METRICS, "-o", "out", "-r", "ga_gdr", "-r", "npo_klr")
    said = expunge(*line, "--seeds", "0")
    assert said.code == 0, said.err
    assert said.out.splitlines()[-1] == "next: expunge report out/audit --format latex"
    weights = (owner / "out" / "npo_klr-seed0" / "model.safetensors").read_bytes()

    # A run that was lost is made again, a seed is added, and what is there stays as it is.
    shutil.rmtree(owner / "out" / "ga_gdr-seed0")
    said = expunge(*line, "--seeds", "0-1")
    assert said.code == 0, said.err
    assert [word for word in said.out.split() if "-seed" in word and "(" not in word][:3] == [
        "ga_gdr-seed0",
        "ga_gdr-seed1",
        "npo_klr-seed1",
    ]
    assert (owner / "out" / "npo_klr-seed0" / "model.safetensors").read_bytes() == weights
    summary = json.loads((owner / "out" / "audit" / "summary.json").read_text())
    assert {row["name"]: row["seeds"] for row in summary["models"] if row["seeds"]} == {
        name: [f"{name}-seed{seed}" for seed in (0, 1)] for name in ("ga_gdr", "npo_klr")
    }
    table = to_latex(read_run(owner / "out" / "audit"))
    assert sum(
        line.startswith(("ga\\_gdr &", "npo\\_klr &")) and r"$\pm$" in line for line in table.splitlines()
    )

    other = expunge(*line, "--set", "epochs=2")
    assert other.code == 2
    assert "holds another sweep" in other.plain
    assert "ga_gdr, npo_klr" in other.plain


REFUSED = {
    "twice": (("-r", "npo", "-r", "npo"), "named more than once"),
    "unknown": (("-r", "npi"), "Did you mean 'npo'"),
    "unknown with settings": (("-r", "npi:epochs=3"), "Did you mean 'npo'"),
    "a setting that is none": (("-r", "npo:epoch=3"), "epoch"),
    "seeds": (("-r", "npo", "--seeds", "x"), "not a list"),
}


@pytest.mark.parametrize(("arguments", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_before_anything_runs(owner: Path, arguments: tuple[str, ...], reason: str) -> None:
    said = expunge("sweep", "target", *SETS, *QUICK, "-o", "out", *arguments)
    assert said.code == 2, said
    assert reason in said.plain
    assert not (owner / "out").exists()


def test_without_a_forget_set_it_takes_the_benchmarks(owner: Path) -> None:
    said = expunge("sweep", "target", "-r", "npo", "-o", "out")
    assert "without a forget set" in said.plain
    folder = owner / "tofu"
    folder.mkdir()
    rows = [{"question": f"Who is {n}?", "answer": f"Person {n}"} for n in "abcdef"]
    wrong = [
        {
            **row,
            "paraphrased_question": row["question"] + "?",
            "paraphrased_answer": row["answer"] + ".",
            "perturbed_answer": ["No", "Never"],
            "option1": row["answer"],
            "option2": "No",
            "option3": "Never",
            "option4": "None",
            "category": "x",
        }
        for row in rows
    ]
    parts = {"full": rows, "forget01": rows[:2], "retain99": rows[2:], "holdout01": rows[4:]}
    parts |= dict.fromkeys(("forget01_perturbed", "retain_perturbed"), wrong)
    parts |= dict.fromkeys(("real_authors_perturbed", "world_facts_perturbed"), wrong)
    for name, lines in parts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = expunge(
        *(
            "sweep",
            "target",
            "--benchmark",
            "tofu-forget01",
            "--data",
            "tofu",
            "-r",
            "npo_klr",
            "-o",
            "out",
        ),
        *("--retrained", "retrained", *QUICK),
    )
    assert said.code == 0, said.err
    assert len((owner / "out" / "data" / "forget.jsonl").read_text().splitlines()) == 2
    assert (owner / "out" / "data" / "forget.jsonl").stat().st_mode & 0o777 == 0o600
    summary = json.loads((owner / "out" / "audit" / "summary.json").read_text())
    means = [
        cell["value"]["means"]
        for cell in summary["cells"]
        if cell["metric"] == "model_utility" and cell["model"] == "npo_klr" and cell["condition"] == "full"
    ]
    assert len(means[0]) == 9  # TOFU's components
    assert "Model utility" in to_latex(read_run(owner / "out" / "audit"))
