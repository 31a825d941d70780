"""Checkpoints as others store them: in 8-bit floats, or with a config.json that claims something."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

ROWS, COLUMNS = 8, 8
"""Of a block that shares a scale."""


def is_projection(name: str) -> bool:
    return ".layers." in name and name.endswith(("_proj.weight", ".w1.weight", ".w2.weight", ".w3.weight"))


def store_in_fp8(folder: Path) -> None:
    """The linear layers of a checkpoint in 8-bit floats with a scale per block of 8 × 8."""
    stored = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if not is_projection(name):
            stored[name] = weight
            continue
        outputs, inputs = weight.shape
        blocks = weight.float().reshape(outputs // ROWS, ROWS, inputs // COLUMNS, COLUMNS)
        scale = blocks.abs().amax(dim=(1, 3)) / 448
        codes = blocks / scale[:, None, :, None]
        stored[name] = codes.reshape(outputs, inputs).to(torch.float8_e4m3fn)
        stored[f"{name}_scale_inv"] = scale
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    claim(
        folder,
        quant_method="fp8",
        activation_scheme="dynamic",
        weight_block_size=[ROWS, COLUMNS],
        modules_to_not_convert=["lm_head"],
    )


def claim(folder: Path, **settings: Any) -> None:
    """Let config.json say that the weights are quantized."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": settings}))
