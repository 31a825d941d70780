"""Which device to compute on."""

from __future__ import annotations

import torch


def best_device() -> torch.device:
    """The accelerator if there is one, else the processor."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")
