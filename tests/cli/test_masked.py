"""A masked language model from the command line: PCGU, its audit, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForMaskedLM

from expunge.audit.summary import read_summary
from expunge.errors import ModelError
from expunge.model.load import load_model
from tests.cli.conftest import expunge, write_rows
from tests.masked import FAMILIES, masked_folder

PAIRS = [
    {
        "id": who,
        "prompt": f"the {who} said that",
        "completion": f" {own} ran .",
        "wrong": [f" {other} ran ."],
    }
    for who, own, other in (("nurse", "she", "he"), ("smith", "he", "she"), ("judge", "he", "she"))
]
STEP = ("--set", "vectors=40", "--set", "learning_rate=0.001", "--set", "gap=0", "--set", "epochs=3")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    (tmp_path / "probes").mkdir()
    return write_rows(tmp_path / "probes" / "choices.jsonl", PAIRS)


@pytest.mark.parametrize("family", FAMILIES)
def test_unlearned_and_audited(family: str, pairs: Path, tmp_path: Path) -> None:
    target, fair = masked_folder(tmp_path / "target", family), tmp_path / "fair"
    said = expunge("unlearn", target, "--recipe", "pcgu", "--forget", pairs, "-o", fair, *STEP)
    assert said.code == 0, said.err
    assert "--benchmark stereoset --data STEREOSET -q int4" in said.out
    (facts,) = json.loads((fair / "record.json").read_text())["stages"]
    assert facts["gaps"][-1] < facts["gaps"][0]
    assert type(AutoModelForMaskedLM.from_pretrained(fair)).__name__.endswith("ForMaskedLM")
    sets = ("--forget", pairs, "--probes", pairs.parent, "--metric", "stereotype")
    asked = (*sets, "--quantize", "int8", "-o", tmp_path / "audit")
    said = expunge("audit", fair, "--target", target, *asked)
    assert said.code == 0, said.err
    summary = read_summary(tmp_path / "audit" / "summary.json")
    for model in ("target", "fair"):
        for label in ("full", "int8"):
            assert summary.cell(model, label, "stereotype").value.value is not None


def test_the_proposed_audit_reads_stereoset_as_published(pairs: Path, tmp_path: Path) -> None:
    labels = ("stereotype", "anti-stereotype", "unrelated")
    sets = [
        [f"the {who} was {word}" for word in words]
        for who, words in (("nurse", ("kind", "brave", "tree")), ("judge", ("brave", "kind", "it it")))
    ]
    rows = [
        {
            "id": str(number),
            "target": "x",
            "sentences": [
                {"sentence": text, "gold_label": label} for text, label in zip(texts, labels, strict=True)
            ],
        }
        for number, texts in enumerate(sets)
    ]
    (tmp_path / "stereoset").mkdir()
    (tmp_path / "stereoset" / "dev.json").write_text(json.dumps({"data": {"intrasentence": rows}}))
    target = masked_folder(tmp_path / "target")
    asked = ("--benchmark", "stereoset", "--data", tmp_path / "stereoset", "-q", "int4")
    said = expunge("audit", target, *asked, "-o", tmp_path / "audit")
    assert said.code == 0, said.err
    summary = read_summary(tmp_path / "audit" / "summary.json")
    assert summary.cell("target", "int4", "stereotype").value.n == 2
    assert summary.cell("target", "int4", "meaningful").value.n == 1  # the other set's differ in length


def test_it_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    target = masked_folder(tmp_path / "target")
    (target / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="masked language model"):
        load_model(target)


def test_what_goes_on_with_a_text_is_refused(pairs: Path, tmp_path: Path) -> None:
    target = masked_folder(tmp_path / "target")
    out, sets = tmp_path / "out", ("--forget", pairs, "--probes", pairs.parent, "--metric", "stereotype")
    for words in (
        ("unlearn", target, "--recipe", "ga", "--forget", pairs, "-o", out),
        ("audit", target, "--forget", pairs, "-o", out),
        ("audit", target, *sets, "--metric", "candidate_accuracy", "-o", out),
        ("quantize", target, "-q", "int4", "-o", out),
    ):
        said = expunge(*words)
        assert said.code == 2, words
        assert "masked language model" in said.err, said.err
        assert "pcgu" in said.err
        assert not (out / "model.safetensors").exists()


def test_sentences_that_differ_in_more_than_a_token_are_refused(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "pairs.jsonl", [*PAIRS[:1], {**PAIRS[1], "wrong": [" it was she ."]}])
    target = masked_folder(tmp_path / "target")
    said = expunge("unlearn", target, "--recipe", "pcgu", "--forget", rows, "-o", tmp_path / "out", *STEP)
    assert said.code == 2
    assert "'smith'" in said.err
    assert "one word" in said.err
