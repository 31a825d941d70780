"""What this machine offers: versions, devices, memory, optional backends."""

from __future__ import annotations

import importlib.metadata
import shutil
from dataclasses import dataclass

import platformdirs
import psutil
import torch

from expunge.model.precision import has_native_bf16
from expunge.record import hardware, versions

GIB = 1 << 30

BACKENDS = (
    ("peft", "lora", "LoRA scope (recipes with scope: lora)"),
    ("datasets", "hub", "forget and retain sets from the Hub"),
    ("bitsandbytes", "bnb", "FP4, NF4 and LLM.int8 quantizers"),
    ("llmcompressor", "compress", "llm-compressor's own GPTQ and round to nearest"),
    ("compressed-tensors", "compress", "quantized folders that transformers and vLLM load"),
    ("torchao", "torchao", "torchao quantizers, 8-bit and 4-bit optimizer states"),
    ("gguf", "gguf", "files for llama.cpp"),
    ("llama-cpp-python", "llamacpp", "asking such a file (compiles for minutes)"),
    ("matplotlib", "figures", "figures of a report as PNG and SVG"),
    ("uvicorn", "inspect", "the inspector"),
    ("lm-eval", "general", "general ability on local tasks"),
)


@dataclass(frozen=True, kw_only=True)
class Backend:
    """An optional package, what it is for, and the version found (``None``: missing)."""

    package: str
    extra: str
    purpose: str
    version: str | None


@dataclass(frozen=True, kw_only=True)
class Health:
    """Everything ``doctor`` shows."""

    facts: dict[str, str]
    backends: tuple[Backend, ...]


def examine() -> Health:
    """Look at this machine."""
    facts = {name: str(value) for name, value in (versions() | hardware()).items()}
    facts.setdefault("accelerator", "none: everything runs on the processor")
    facts["memory free / all"] = _memory()
    facts["native bfloat16"] = (
        "yes" if has_native_bf16(torch.device("cpu")) else "no: kept on the grid in fp32"
    )
    cache = platformdirs.user_cache_path("expunge")
    home = next(parent for parent in (cache, *cache.parents) if parent.exists())
    facts["cache"] = f"{cache} ({shutil.disk_usage(home).free / GIB:.0f} GiB free)"
    backends = tuple(
        Backend(package=package, extra=extra, purpose=purpose, version=_version(package))
        for package, extra, purpose in BACKENDS
    )
    return Health(facts=facts, backends=backends)


def _memory() -> str:
    memory = psutil.virtual_memory()
    return f"{memory.available / GIB:.1f} / {memory.total / GIB:.1f} GiB"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
