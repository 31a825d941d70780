"""What libraries say to their programmers is kept from those who use this program."""

from __future__ import annotations

import logging

LOUD = ("torchao", "torch.utils._pytree", "llmcompressor", "compressed_tensors")
"""They warn on import of what an installation lacks and nothing here uses (kernels, a compiler)."""


def quiet_loggers() -> None:
    """Let these libraries log errors only."""
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.ERROR)
