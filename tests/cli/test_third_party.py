"""A package of somebody else's, found through entry points: a quantizer, an attack and two metrics."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MODULES = {
    "rounding": '''
from typing import ClassVar

from expunge.quant import quantizers
from expunge.quant.base import Quantized, Quantizer


@quantizers.register("tenths")
class Tenths(Quantizer):
    """Every weight to one decimal."""

    family: ClassVar[str] = "tenths"

    @property
    def label(self) -> str:
        return "tenths"

    @property
    def how(self) -> str:
        return "rounded to one decimal"

    def quantize(self, weight_OI):
        codes_OI = (10 * weight_OI).round()
        return Quantized(codes_OI, codes_OI / 10)
''',
    "persuasion": '''
from contextlib import contextmanager
from dataclasses import replace

from expunge.attacks import Applied, Attack, attacks


@attacks.register("politeness")
class Politeness(Attack):
    """Every question is asked politely."""

    @property
    def is_noop(self) -> bool:
        return False

    @contextmanager
    def applied(self, model, context, result):
        def politely(example):
            return replace(example, prompt="Please. " + example.prompt)

        yield Applied(model=model, rewrite_prompt=politely)
''',
    "measures": '''
from typing import ClassVar

from expunge.metrics import metrics
from expunge.metrics.base import Metric, MetricRole
from expunge.types import Score


@metrics.register("town_named")
class TownNamed(Metric):
    """10 where the answer names the right town, else 0."""

    title: ClassVar[str] = "Towns named"
    definition: ClassVar[str] = "share of answers that name the right town, in tenths"
    scale: ClassVar[str] = "0-10"
    lower_is_better: ClassVar[bool | None] = True
    role: ClassVar[MetricRole] = MetricRole.KNOWLEDGE

    def measure(self, observed, probes):
        asked = probes.questions("forget")
        replies = observed.greedy(asked, max_new_tokens=12, stop=())
        return {
            "forget": [
                Score(item=each.id, value=10.0 * (each.completion.split()[-1] in reply), group=each.group)
                for each, reply in zip(asked, replies, strict=True)
            ]
        }


@metrics.register("town_sampled")
class TownSampled(TownNamed):
    """The same, of answers from many places."""

    title: ClassVar[str] = "Towns sampled"
    role: ClassVar[MetricRole] = MetricRole.EXTRACTION
''',
}
GROUPS = {"quant": "rounding", "attacks": "persuasion", "metrics": "measures"}
PACKAGE = "third_party_for_test"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip leaves in site-packages: the package, and its metadata with entry points."""
    site = tmp_path_factory.mktemp("site")
    for name, text in MODULES.items():
        path = site / PACKAGE / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (site / PACKAGE / "__init__.py").touch()
    metadata = site / f"{PACKAGE}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\n")
    entries = (f"[expunge.{group}]\n{name} = {PACKAGE}.{name}\n" for group, name in GROUPS.items())
    (metadata / "entry_points.txt").write_text("\n".join(entries))
    return site


def typed(site: Path, folder: Path, *arguments: str) -> str:
    """The command line in a process of its own that finds the package."""
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")]), *sys.path]
    done = subprocess.run(
        [sys.executable, "-m", "expunge", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def audited(built: Path, installed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A copy of the target, audited with nothing but what the package brings; its folder and its table."""
    home = tmp_path_factory.mktemp("third") / "home"
    shutil.copytree(built, home)
    shutil.copytree(home / "target", home / "again")
    out = typed(
        *(installed, home, "audit", "again", "--target", "target", "--retrained", "retrained"),
        *("--forget", "forget.jsonl", "--retain", "retain.jsonl", "--max-length", "64"),
        *("-q", "tenths", "--attack", "politeness", "-o", "out", "--verbose"),
        *("--metric", "town_named", "--metric", "town_sampled", "--metric", "utility"),
    )
    return home, out


def test_it_stands_in_the_tables(audited: tuple[Path, str]) -> None:
    _, out = audited
    for word in ("tenths", "politeness", "tenths+politeness", "Towns named", "Towns sampled"):
        assert word in out


def test_its_metric_decides_the_verdict(audited: tuple[Path, str]) -> None:
    home, _ = audited
    summary = json.loads((home / "out" / "summary.json").read_text())
    roles = {block["name"]: (block["role"], block["points"]) for block in summary["metrics"]}
    # 5 % of a scale of 0 to 10; a metric with another role decides nothing.
    assert roles["town_named"] == ("knowledge", 0.5)
    assert roles["town_sampled"] == ("extraction", None)
    verdicts = {row["condition"]: row["verdict"] for row in summary["verdicts"]}
    assert verdicts["full"]["outcome"] == "did not forget"
    assert "town_named" in verdicts["full"]["reason"]
    assert set(verdicts) == {"full", "tenths", "politeness", "tenths+politeness"}


def test_its_report_says_it_was_tested(audited: tuple[Path, str], installed: Path) -> None:
    home, _ = audited
    typed(installed, home, "report", "out", "--format", "json")
    (path,) = (home / "out").glob("report*.json")
    document: dict[str, Any] = json.loads(path.read_text())
    kinds = {row["label"]: (row["kind"], row["family"]) for row in document["summary"]["conditions"]}
    assert kinds["tenths"] == ("quantizer", "tenths")
    assert kinds["politeness"][0] == "attack"
    gaps = {gap["what"] for gap in document["not_tested"]}
    covered = {"No reduced precision", "Attacks", "Word-for-word recall", "Repeated asking", "Usefulness"}
    assert not gaps & covered
    assert "Membership" in gaps
    typed(installed, home, "report", "out")
    assert "Towns named" in (home / "out" / "report.html").read_text()


def test_without_it_the_same_report_is_still_drawn(audited: tuple[Path, str], tmp_path: Path) -> None:
    home, _ = audited
    shutil.copytree(home / "out", tmp_path / "out")
    typed(tmp_path, tmp_path, "report", "out", "--format", "md")
    (path,) = (tmp_path / "out").glob("report*.md")
    assert "Towns named" in path.read_text()
