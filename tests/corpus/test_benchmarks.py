"""Benchmarks as data, and on folders of their schema: nothing here leaves the machine."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest

from expunge.corpus import benchmarks
from expunge.corpus.benchmarks import BENCHMARKS, benchmark, load
from expunge.corpus.benchmarks.base import Benchmark, BenchmarkSplit
from expunge.corpus.benchmarks.load import load_corpora, load_splits
from expunge.corpus.synthetic import World, WorldSize
from expunge.errors import DataError, RecipeError
from tests.corpus.muse_folder import FOLDS, muse_rows, write_muse
from tests.documents import TOFU

QA = {
    "question": "Who?",
    "answer": "Ada",
    "paraphrased_answer": "It is Ada",
    "paraphrased_question": "Who is it?",
    "perturbed_answer": ["Bo", "Cy"],
}
NEEDS_TOFU = pytest.mark.skipif(not TOFU.is_dir(), reason="TOFU is not beside the checkout")


def write(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def tofu(folder: Path) -> Path:
    known = {name: QA[name] for name in ("question", "answer", "perturbed_answer")}
    for name in ("forget01_perturbed", "retain_perturbed"):
        write(folder / f"{name}.jsonl", QA)
    for name in ("real_authors_perturbed", "world_facts_perturbed"):
        write(folder / f"{name}.jsonl", known)
    return folder


@pytest.fixture(scope="module")
def muse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("muse") / "world"
    write_muse(World(WorldSize()), folder)
    return folder


def test_every_benchmark_says_where_it_comes_from_and_what_it_measures() -> None:
    from expunge.metrics import metrics
    from expunge.metrics.probes import Probes

    for each in BENCHMARKS.values():
        Probes(**dict.fromkeys(each.splits, ()))  # type: ignore[arg-type]
        for metric in each.metrics:
            metrics.build(metric)
        assert each.source
        assert each.optional <= each.splits.keys()
        if each.hub is not None:
            assert each.revision is not None
            assert set(each.revision) <= set(string.hexdigits)
        for row in each.published:
            assert row.source
            assert row.values.keys() <= {m if isinstance(m, str) else m["name"] for m in each.metrics}


def test_a_commit_is_named_whole() -> None:
    with pytest.raises(ValueError, match="whole hash"):
        Benchmark(
            name="x",
            title="x",
            source="x",
            licence="x",
            splits={},
            metrics=(),
            hub="a/b",
            revision="506bd5b",
        )


def test_a_name_mistyped_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"Did you mean 'muse-books'"):
        benchmark("muse-book")


def test_tofu_from_a_folder(tmp_path: Path) -> None:
    found = load_splits(benchmark("tofu-forget01"), tofu(tmp_path))
    assert set(found) == {"forget", "paraphrase_questions", "retain", "real_authors", "world_facts"}
    (forget,), (otherwise,), (author,) = (
        found[name] for name in ("forget", "paraphrase_questions", "real_authors")
    )
    assert (forget.completion, forget.paraphrase, forget.wrong) == ("Ada", "It is Ada", ("Bo", "Cy"))
    assert otherwise.prompt == "Question: Who is it?\nAnswer: "
    assert otherwise.completion == "Ada"
    assert (author.paraphrase, author.choices) == (None, ("Ada", "Bo", "Cy"))


def test_a_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = tofu(tmp_path)
    (folder / "world_facts_perturbed.jsonl").unlink()
    with pytest.raises(
        DataError, match=r"world_facts split from world_facts_perturbed/train.jsonl or world"
    ):
        load_splits(benchmark("tofu-forget01"), folder)


def test_a_field_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = tofu(tmp_path)
    write(
        folder / "retain_perturbed.jsonl", {"question": "Who?", "answer": "Ada", "perturbed_answer": ["B"]}
    )
    with pytest.raises(DataError, match=r"no column 'paraphrased_answer' to take the paraphrase from"):
        load_splits(benchmark("tofu-forget01"), folder)


def test_no_folder_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        load_splits(benchmark("tofu-forget01"), tmp_path / "absent")


@NEEDS_TOFU
@pytest.mark.parametrize(("share", "questions"), [("01", 40), ("05", 200), ("10", 400)])
def test_the_real_tofu_is_whole(share: str, questions: int) -> None:
    found = load_splits(benchmark(f"tofu-forget{share}"), TOFU)
    sizes = {name: len(split) for name, split in found.items()}
    assert sizes == {
        **dict.fromkeys(("forget", "paraphrase_questions", "holdout"), questions),
        "retain": 400,
        "real_authors": 100,
        "world_facts": 117,
    }
    assert all(len(each.wrong) == 5 and each.paraphrase for each in found["forget"] + found["retain"])
    corpora = load_corpora(benchmark(f"tofu-forget{share}"), TOFU)
    assert len(corpora["forget"]) + len(corpora["retain"]) == len(corpora["full"]) == 4000
    evaluated = {(each.prompt, each.completion) for each in found["retain"]}
    assert evaluated <= {(each.prompt, each.completion) for each in corpora["retain"]}


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name.startswith("muse")])
def test_every_muse_reads_the_worlds_folder(muse: Path, name: str) -> None:
    found = load_splits(benchmark(name), muse)
    assert {split: len(own) for split, own in found.items()} == {
        "forget": 6 * 6 + 6,
        "retain": 18 * 6,
        "holdout": 6,
        "forget_icl": 10,
        "retain_icl": 10,
        "verbatim": 6,
    }
    assert load_corpora(benchmark(name), muse)["forget"]


def test_the_worlds_folder_says_what_the_world_says(muse: Path) -> None:
    world = World(WorldSize())
    found = load_splits(benchmark("muse-news"), muse)
    for person, halves in zip(world.forget_people, found["verbatim"], strict=True):
        assert halves.text == person.biography
        assert halves.group == person.name
    documents = [each.completion for each in found["forget"] if each.is_document]
    assert documents == [person.biography for person in world.forget_people]
    asked = [(each.prompt, each.completion) for each in found["forget"] if not each.is_document]
    person = world.forget_people[0]
    assert asked[0] == (f"Question: {person.question('town')}\nAnswer: ", person.facts["town"])


def test_folds_are_nested_and_apart() -> None:
    rows = muse_rows(World(WorldSize()))

    def texts(kind: str, fold: int) -> set[str]:
        return {row["text"] for row in rows[f"{kind}/forget_{fold}"]}

    everyone = {row["text"] for row in rows["raw/forget"]}
    for fold in range(1, FOLDS):
        assert texts("scal", fold) < texts("scal", fold + 1)
    assert texts("scal", FOLDS) == everyone
    apart = [texts("sust", fold) for fold in range(1, FOLDS + 1)]
    assert all(apart)
    assert set.union(*apart) == everyone
    assert sum(map(len, apart)) == len(everyone)


def test_a_world_too_small_for_folds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 4"):
        write_muse(World(WorldSize(forget=3)), tmp_path / "muse")


def test_wmdp_lists_its_choices_as_lm_eval_does(tmp_path: Path) -> None:
    row = {"question": "Which?", "choices": ["w", "x", "y", "z"], "answer": 2}
    write(tmp_path / "wmdp-bio" / "test.jsonl", row)
    found = load_splits(benchmark("wmdp-bio"), tmp_path)
    (asked,) = found["choices"]
    assert asked.prompt == (
        "The following are multiple choice questions (with answers) about biology.\n\n"
        "Which?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    )
    assert asked.choices == (" A", " B", " C", " D")
    assert asked.completion == " C"
    assert "ability" not in found


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Which?", "choices": ["w", "x"], "answer": 2},
        {"question": "Which?", "choices": ["w", "w"], "answer": 0},
        {"question": "Which?", "choices": ["w", "x"], "answer": "y"},
        {"question": "Which?", "answer": "y"},
    ],
)
def test_choices_that_do_not_tell_the_answer_are_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    write(tmp_path / "wmdp-bio.jsonl", row)
    with pytest.raises(DataError, match=r"choices|whole number"):
        load_splits(benchmark("wmdp-bio"), tmp_path)


def test_rwku_reads_ones_own_files(tmp_path: Path) -> None:
    row = {"query": "Ada lives in ___.", "answer": "Arbon", "subject": "Ada", "type": "cloze", "level": "1"}
    for name in ("forget_level1", "forget_level2"):
        write(tmp_path / f"{name}.jsonl", row)
    found = load_splits(benchmark("rwku"), tmp_path)
    assert set(found) == {"cloze", "forget"}
    assert "Please complete the blank" in found["cloze"][0].prompt
    assert found["forget"][0].group == "Ada"


def test_ones_own_form_has_nothing_on_the_hub() -> None:
    with pytest.raises(DataError, match=r"Pass --data FOLDER with forget_level2.jsonl"):
        load_splits(benchmark("rwku"))


def test_the_hub_is_asked_for_the_pinned_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def read(source: str, **settings: Any) -> list[Any]:
        asked.append((source, settings))
        return []

    monkeypatch.setattr(load, "read_examples", read)
    load_splits(benchmark("muse-news"))
    first, settings = asked[0]
    assert first == "muse-bench/MUSE-News@506bd5b150b92814d45e4404a82f120ab2d748bf"
    assert (settings["config"], settings["split"]) == ("knowmem", "forget_qa")
    assert len(asked) == 7
    asked.clear()
    load_splits(benchmark("wmdp-cyber"))
    assert {source for source, _ in asked} == {"cais/wmdp@7125571f22f032c56415e7980f48d877dd830ff8"}
    asked.clear()
    load_corpora(benchmark("wmdp-cyber"))
    assert {source.partition("@")[0] for source, _ in asked} == {"cais/wmdp-corpora"}


def test_the_hubs_own_layout_of_shards_is_read(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    row = {"question": "Which?", "choices": ["w", "x", "y", "z"], "answer": 0}
    (tmp_path / "wmdp-chem").mkdir()
    for shard in range(2):
        table = pa.Table.from_pylist([row])
        parquet.write_table(table, tmp_path / "wmdp-chem" / f"test-0000{shard}-of-00002.parquet")
    assert len(load_splits(benchmark("wmdp-chem"), tmp_path)["forget"]) == 2


def test_parts_are_frozen_and_complete() -> None:
    part = BenchmarkSplit(config="a", split="b")
    with pytest.raises(ValueError, match="frozen"):
        part.config = "c"  # type: ignore[misc]
    assert benchmarks.__all__
