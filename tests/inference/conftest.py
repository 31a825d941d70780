"""One thread: tiny models are slower with more, and sums then come in one order."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
