from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from expunge.corpus.batching import collate
from expunge.corpus.tokenise import Encoded
from expunge.inference.backbone import counted, parts, predictions, scatter
from tests.batches import batch_of, encoded
from tests.tiny import ARCHITECTURES, HIDDEN, tiny

UNEVEN = (100, 4, 90, 6, 5, 4, 7, 6, 5, 4, 6, 5, 7, 4, 6, 5, 7)


class Recorder:
    """Counts the tokens a model's backbone reads, padding included."""

    def __init__(self, model: nn.Module) -> None:
        self.read: list[torch.Size] = []
        model.base_model.register_forward_pre_hook(
            lambda _module, _args, kwargs: self.read.append(kwargs["input_ids"].shape), with_kwargs=True
        )


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_states_do_not_depend_on_padding_or_on_parts(arch: str) -> None:
    model = tiny(arch)
    recorder = Recorder(model)
    with torch.no_grad():
        together = predictions(model, batch_of(UNEVEN, prompt=2))
        in_parts = len(recorder.read)
        alone = [predictions(model, collate([one], pad_id=0)) for one in encoded(UNEVEN, prompt=2)]
    assert in_parts == 2
    torch.testing.assert_close(
        together.hidden_NH, torch.cat([one.hidden_NH for one in alone]), rtol=1e-4, atol=1e-5
    )
    assert together.token_N.tolist() == [token for one in alone for token in one.token_N.tolist()]
    assert together.hidden_NH.shape == (len(together.token_N), HIDDEN)


def test_little_padding_is_read() -> None:
    model = tiny("llama")
    recorder = Recorder(model)
    predictions(model, batch_of(UNEVEN))
    assert sum(shape.numel() for shape in recorder.read) < 0.2 * len(UNEVEN) * max(UNEVEN)


@settings(deadline=None)
@given(lengths=st.lists(st.integers(2, 300), min_size=1, max_size=12))
def test_parts_hold_every_row_once_and_never_cost_more(lengths: list[int]) -> None:
    groups = parts(lengths)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    cost = sum(len(group) * max(lengths[row] for row in group) for group in groups)
    assert cost <= len(lengths) * max(lengths)


def test_the_first_token_never_counts() -> None:
    batch = collate(
        [Encoded([5, 6, 7], [True, False, True], "a"), Encoded([5, 6], [True, True], "b")], pad_id=0
    )
    assert counted(batch).tolist() == [[False, False, True], [False, True, False]]
    assert batch.mask_BT[0, 0]  # the batch itself is left as it was
    found = predictions(tiny("llama"), batch)
    assert found.token_N.tolist() == [7, 6]


def test_values_go_back_to_where_they_came_from() -> None:
    where = torch.tensor([[False, True, True], [False, False, True]])
    values = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    back = scatter(values, where)
    assert back.tolist() == [[0, 1, 2], [0, 0, 3]]
    (back * torch.tensor([[9.0, 1, 2], [9, 9, 3]])).sum().backward()
    assert values.grad.tolist() == [1, 2, 3]
