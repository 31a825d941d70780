"""What makes small runs quick: one thread, and libraries that are no garbage."""

from __future__ import annotations

import gc

import pytest
import torch

import tests.train.runs  # noqa: F401  (so that everything it imports is there to be frozen)

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def frozen_garbage() -> None:
    """The trainer collects garbage at every start; leave the libraries out of it."""
    gc.collect()
    gc.freeze()
