from __future__ import annotations

import shutil
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.corpus.batching import collate
from expunge.errors import OutputError
from expunge.inference import reference as module
from expunge.inference.reference import CachedReference, CacheFolder, Key, cache_reference
from expunge.inference.state_file import StateDtype, StateFile
from tests.batches import encoded
from tests.tiny import HIDDEN, PAD, tiny

FORGET, RETAIN = encoded(seed=0), encoded(seed=50)
COUNTED = sum(sum(one.mask[1:]) for one in RETAIN)


def filled(
    model: nn.Module, folder: Path | None, *, dtype: StateDtype = "fp32", **changes: Any
) -> CachedReference:
    settings: dict[str, Any] = {
        "logps_of": [(Key("forget", i), one) for i, one in enumerate(FORGET)],
        "states_of": [(Key("retain", i), one) for i, one in enumerate(RETAIN)],
        "inner_of": {0: [(Key("retain", 1), RETAIN[1])], 1: [(Key("forget", 0), FORGET[0])]},
        "batch_tokens": 32,
    }
    keep = None if folder is None else CacheFolder(folder, dtype)
    return cache_reference(model, pad_id=PAD, head_may_change=False, keep=keep, **(settings | changes))


def values(reference: CachedReference) -> list[Tensor]:
    retain = collate([RETAIN[i] for i in (3, 0)], pad_id=PAD)
    forget = collate([FORGET[0]], pad_id=PAD)
    return [
        reference.logps(forget, [Key("forget", 0)]),
        reference.states(retain, [Key("retain", 3), Key("retain", 0)]),
        reference.inner(forget, [Key("forget", 0)], 1),
        reference.inner(collate([RETAIN[1]], pad_id=PAD), [Key("retain", 1)], 0),
    ]


def count_batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    sizes: list[int] = []
    original = module._by_key
    monkeypatch.setattr(
        module, "_by_key", lambda keys, *a: (sizes.append(len(keys)), original(keys, *a))[1]
    )
    return sizes


def test_a_file_gives_what_memory_gives_bit_for_bit(tmp_path: Path) -> None:
    model = tiny("llama")
    kept, known = filled(model, tmp_path / "cache"), filled(model, None)
    assert isinstance(kept.hidden, StateFile)
    assert all(one.equal(two) for one, two in zip(values(kept), values(known), strict=True))
    assert kept.bytes == known.bytes
    assert list(kept.hidden) == [Key("retain", i) for i in range(len(RETAIN))]


def test_only_the_user_can_read_it_and_its_size_is_known(tmp_path: Path) -> None:
    filled(tiny("llama"), tmp_path / "cache")
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "cache" / "hidden").stat().st_mode) == 0o600
    assert (tmp_path / "cache" / "hidden").stat().st_size == COUNTED * HIDDEN * 4


def test_bfloat16_takes_half_and_rounds_states_only(tmp_path: Path) -> None:
    model = tiny("llama")
    rounded, known = values(filled(model, tmp_path, dtype="bf16")), values(filled(model, None))
    assert (tmp_path / "hidden").stat().st_size == COUNTED * HIDDEN * 2
    assert rounded[0].equal(known[0])
    for one, two in zip(rounded[1:], known[1:], strict=True):
        assert one.dtype == torch.float32
        assert one.equal(two.bfloat16().float())
        assert not one.equal(two)


def test_states_of_a_bfloat16_model_stay_bfloat16(tmp_path: Path) -> None:
    model = tiny("llama").bfloat16()
    kept, known = filled(model, tmp_path), filled(model, None)
    assert (tmp_path / "hidden").stat().st_size == COUNTED * HIDDEN * 2
    for one, two in zip(values(kept), values(known), strict=True):
        assert one.dtype == two.dtype
        assert one.equal(two)


def test_a_whole_file_of_the_same_run_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = values(filled(tiny("llama"), tmp_path))
    sizes = count_batches(monkeypatch)
    again = filled(tiny("llama"), tmp_path)
    assert sizes == []
    assert all(one.equal(two) for one, two in zip(values(again), first, strict=True))


@pytest.mark.parametrize("spoil", ["cut", "unsealed", "weights", "texts", "dtype", "garbled"])
def test_any_other_file_is_filled_anew(spoil: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tiny("llama"), tmp_path)
    model, changes = tiny("llama", seed=1 if spoil == "weights" else 0), {}
    if spoil == "cut":
        (tmp_path / "hidden").write_bytes((tmp_path / "hidden").read_bytes()[:-1])
    if spoil == "unsealed":  # killed while it was filled
        (tmp_path / "hidden.json").unlink()
    if spoil == "garbled":
        (tmp_path / "hidden.json").write_bytes(b"\xff{")
    if spoil == "texts":
        changes = {"states_of": [(Key("retain", i), one) for i, one in enumerate(RETAIN[::-1])]}
    sizes = count_batches(monkeypatch)
    again = filled(model, tmp_path, dtype="bf16" if spoil == "dtype" else "fp32", **changes)
    assert sum(sizes) >= len(RETAIN)
    fresh = filled(model, tmp_path / "fresh", dtype="bf16" if spoil == "dtype" else "fp32", **changes)
    assert all(again.hidden[key].equal(fresh.hidden[key]) for key in again.hidden)


def test_a_full_disk_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = count_batches(monkeypatch)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match=r"reference cache of .* GiB.*free there.*reference_dtype=bf16"):
        filled(tiny("llama"), tmp_path)
    assert sizes == []
    assert list(tmp_path.iterdir()) == []


def test_a_file_cut_short_while_it_is_used_is_an_error(tmp_path: Path) -> None:
    kept = filled(tiny("llama"), tmp_path)
    (tmp_path / "hidden").write_bytes(b"")
    with pytest.raises(OutputError, match="cut short"):
        values(kept)
    with pytest.raises(TypeError, match="fixed layout"):
        del kept.hidden[Key("retain", 0)]  # type: ignore[attr-defined]
