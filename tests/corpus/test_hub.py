"""The Hub's loader on folders of the Hub's layout: nothing here leaves the machine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from expunge.corpus.readers import HUB_ID, hub_rows, read_examples
from expunge.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from pathlib import Path

datasets = pytest.importorskip("datasets")

ROWS = [{"question": "Who?", "answer": "Ada"}, {"question": "Where?", "answer": "Paris"}]
MUSE = {"knowmem": {"forget_qa": ROWS, "retain_qa": ROWS[:1]}, "raw": {"forget": [{"text": "news"}]}}
CARD = "---\nconfigs:\n{}---\n"


class Undecodable:
    """A dataset whose second row needs a decoder that is not installed."""

    def __iter__(self) -> Any:
        yield {"text": "a"}
        raise ImportError("To support decoding images, please install 'Pillow'.")


class Hub:
    """What ``load_dataset`` was asked, answered from memory."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def __call__(self, name: str, config: str | None, *, split: str | None, revision: str | None) -> Any:
        self.asked.append((name, config, split, revision))
        if name == "org/absent":
            raise datasets.exceptions.DatasetNotFoundError("Dataset 'org/absent' doesn't exist on the Hub.")
        if name == "org/broken":
            raise datasets.exceptions.DatasetGenerationError("An error occurred while generating it.")
        if name == "org/undecodable":
            return Undecodable()
        if name == "org/offline":
            raise ConnectionError("Couldn't reach the Hub")
        if config not in MUSE:
            raise ValueError(f"Config name is missing. Please pick one among: {list(MUSE)}")
        splits = {key: datasets.Dataset.from_list(rows) for key, rows in MUSE[config].items()}
        if split is None:
            return datasets.DatasetDict(splits)
        if split not in splits:
            raise ValueError(f"Unknown split {split!r}. Should be one of {list(splits)}.")
        return splits[split]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    stand_in = Hub()
    monkeypatch.setattr(datasets, "load_dataset", stand_in)
    return stand_in


def test_a_dataset_of_the_hub(hub: Hub) -> None:
    found = read_examples("muse-bench/MUSE-News", config="knowmem", split="forget_qa")
    assert [one.prompt for one in found] == ["Question: Who?\nAnswer: ", "Question: Where?\nAnswer: "]
    assert [one.id for one in found] == ["MUSE-News/knowmem/forget_qa:1", "MUSE-News/knowmem/forget_qa:2"]
    assert hub.asked == [("muse-bench/MUSE-News", "knowmem", "forget_qa", None)]


def test_a_revision_is_pinned(hub: Hub) -> None:
    read_examples("muse-bench/MUSE-News@abc123", config="raw")
    assert hub.asked == [("muse-bench/MUSE-News", "raw", None, "abc123")]


def test_the_only_split_needs_no_name_and_several_do(hub: Hub) -> None:
    assert [one.id for one in read_examples("org/muse", config="raw")] == ["muse/raw/forget:1"]
    with pytest.raises(DataError, match=r"2 splits: forget_qa, retain_qa. Say which one"):
        read_examples("org/muse", config="knowmem")


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("org/absent", {}, "dataset 'org/absent': the Hub could not give it: .*doesn't exist"),
        ("org/absent@v2", {}, "dataset 'org/absent' at revision v2"),
        ("org/broken", {}, "dataset 'org/broken': the Hub could not give it: An error occurred"),
        ("org/undecodable", {}, "org/undecodable, row 2: it cannot be read: ImportError: To support"),
        ("org/offline", {}, "Couldn't reach the Hub.*without a network, download it first"),
        ("org/muse", {}, "pick one among.*'knowmem', 'raw'"),
        ("org/muse", {"config": "raw", "split": "retain"}, "Unknown split 'retain'"),
    ],
)
def test_what_the_hub_cannot_give_is_said(hub: Hub, name: str, settings: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_examples(name, **settings)


def test_a_row_of_the_hub_is_named_in_errors(hub: Hub) -> None:
    with pytest.raises(DataError, match="org/muse, split forget, row 1: there is no column 'body'"):
        read_examples("org/muse", config="raw", fields={"text": "body"})


@pytest.mark.parametrize(
    ("source", "name", "revision"),
    [("org/name", "org/name", None), ("org/na.me-1@refs/pr/3", "org/na.me-1", "refs/pr/3")],
)
def test_hub_ids(source: str, name: str, revision: str | None) -> None:
    found = HUB_ID.fullmatch(source)
    assert found is not None
    assert (found["name"], found["revision"]) == (name, revision)
    assert HUB_ID.fullmatch("name") is None
    assert HUB_ID.fullmatch("/a/b") is None


def test_the_real_loader_on_a_folder_of_the_same_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "MUSE"
    entries = ""
    for config, splits in MUSE.items():
        entries += f"- config_name: {config}\n  data_files:\n"
        for split, rows in splits.items():
            file = folder / config / f"{split}-00000-of-00001.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            datasets.Dataset.from_list(rows).to_parquet(file)
            entries += f"  - split: {split}\n    path: {config}/{file.name}\n"
    (folder / "README.md").write_text(CARD.format(entries), encoding="utf-8")
    rows = list(hub_rows(str(folder), config="knowmem", split="forget_qa", revision=None))
    assert [row.values for row in rows] == ROWS
    assert rows[1].name == "MUSE/knowmem/forget_qa:2"
    with pytest.raises(DataError, match=r"knowmem.*raw"):
        list(hub_rows(str(folder), config=None, split=None, revision=None))


def test_a_saved_dataset(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    assert [one.id for one in read_examples(tmp_path / "one")] == ["one:1", "one:2"]
    with pytest.raises(DataError, match="holds one dataset, without splits such as 'forget'"):
        read_examples(tmp_path / "one", split="forget")


def test_saved_splits(tmp_path: Path) -> None:
    splits = {key: datasets.Dataset.from_list(rows) for key, rows in MUSE["knowmem"].items()}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "many")
    assert [one.id for one in read_examples(tmp_path / "many", split="retain_qa")] == ["many/retain_qa:1"]
    with pytest.raises(DataError, match=r"2 splits: forget_qa, retain_qa"):
        read_examples(tmp_path / "many")
    with pytest.raises(DataError, match=r"no split 'forget'.*Did you mean 'forget_qa'"):
        read_examples(tmp_path / "many", split="forget")


def test_a_damaged_saved_dataset_is_named(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="saved dataset is damaged"):
        read_examples(tmp_path)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r'pip install "expunge\[hub\]"'):
        read_examples("org/name")


@pytest.mark.parametrize("state", ["{}", "[]", "{", "null", '{"_data_files": [{"filename": 3}]}'])
def test_a_damaged_saved_dataset_is_refused(tmp_path: Path, state: str) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    (tmp_path / "one" / "state.json").write_text(state)
    with pytest.raises(DataError, match="the saved dataset is damaged"):
        read_examples(tmp_path / "one")
