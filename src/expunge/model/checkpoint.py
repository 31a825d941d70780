"""What lies in a checkpoint folder, found without loading it, and the refusals when it is not enough."""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from expunge.errors import ModelError, did_you_mean

PICKLED_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt")
MERGE_FIX = (
    "Merge it first: peft.AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload()"
    ".save_pretrained(new_folder)."
)
LOADING_ERRORS = (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError)
"""What transformers and safetensors raise for a checkpoint they cannot read."""

_HEADER_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def local_folder(path_or_id: str | Path) -> Path | None:
    """The folder meant, or ``None`` when this can only be a name on the Hub.

    Raises:
        ModelError: a local path was meant, and it does not exist or is a file.
    """
    path = Path(path_or_id).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(
            f"{path} is a file",
            why="a checkpoint is a folder with config.json and safetensors weights.",
            fix=f"Give its folder, {str(path.parent)!r}.",
        )
    text = str(path_or_id)
    if isinstance(path_or_id, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1:
        nearby = [sibling.name for sibling in path.parent.glob("*") if sibling.is_dir()]
        raise ModelError(
            f"no folder {path}",
            why="it does not exist.",
            fix=did_you_mean(path.name, nearby) if nearby else "Check the path.",
        )
    return None


def require_checkpoint(folder: Path) -> None:
    """Refuse a folder that is not a safetensors checkpoint of a whole model.

    Raises:
        ModelError: it lacks config.json or weights, or holds an adapter or pickled weights only.
    """
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelError(
                f"{folder} holds an adapter, not a model", why="its base model is elsewhere.", fix=MERGE_FIX
            )
        raise ModelError(
            f"no config.json in {folder}",
            why="without it nothing says what model the weights belong to.",
            fix="Give the folder that save_pretrained wrote.",
        )
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for pattern in PICKLED_WEIGHTS for path in folder.glob(pattern))
    if pickled:
        raise ModelError(
            f"{folder} has only pickled weights ({pickled[0]})",
            why="unpickling can run code from the checkpoint; only safetensors is read.",
            fix="Convert it once, where you trust it: AutoModelForCausalLM.from_pretrained(folder)"
            ".save_pretrained(new_folder).",
        )
    raise ModelError(
        f"no weights in {folder}",
        why="there is no *.safetensors file beside config.json.",
        fix="Give the folder that save_pretrained wrote, or copy it again: it looks unfinished.",
    )


def source_dtype(folder: str | Path) -> torch.dtype:
    """The dtype most weights of a checkpoint folder were saved in, read from its safetensors headers.

    Raises:
        ModelError: there is no readable safetensors file.
    """
    files = sorted(Path(folder).expanduser().glob("*.safetensors"))
    elements: Counter[str] = Counter()
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a mapping, only has keys()
                    header = tensors.get_slice(name)
                    elements[header.get_dtype()] += prod(header.get_shape())
        except (OSError, SafetensorError) as error:
            raise unreadable(file, "weights", error) from error
    if not elements:
        raise ModelError(
            f"no safetensors weights in {folder}",
            why="the dtype of a checkpoint is read from their headers.",
            fix="Give the folder that holds model.safetensors.",
        )
    return _HEADER_DTYPES[elements.most_common(1)[0][0]]


def unreadable(path_or_id: str | Path, what: str, error: Exception) -> ModelError:
    """The refusal for a file that a library could not read."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if "trust_remote_code" in str(error):
        fix = "If you have read that code and trust it, pass --trust-remote-code."
    elif Path(path_or_id).expanduser().is_dir():
        fix = "Check that the folder is whole, and that the installed transformers knows this model."
    else:
        fix = (
            f"Check the path: there is no folder {path_or_id} here. "
            "For a model on the Hub, check its name, your access to it and the network."
        )
    return ModelError(f"cannot load the {what} of {path_or_id}", why=f"{reason.rstrip('.')}.", fix=fix)
