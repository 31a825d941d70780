"""Which device to compute on."""

from __future__ import annotations

import os

import torch


def best_device() -> torch.device:
    """The accelerator if there is one, else the processor.

    Of several processes launched together each takes an accelerator of its own.
    """
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    if "LOCAL_RANK" in os.environ:
        own = int(os.environ["LOCAL_RANK"]) % torch.accelerator.device_count()
        torch.accelerator.set_device_index(own)
    return torch.accelerator.current_accelerator() or torch.device("cpu")
