"""Memory, disk, device and worker processes, with their failures as refusals; what this machine can run."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path

import platformdirs
import psutil
import torch
from safetensors import SafetensorError

from expunge.errors import ModelError, OutputError
from expunge.files import FREE_SPACE_FIX
from expunge.model.precision import has_native_bf16
from expunge.quiet import quiet_loggers, start_light
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
    ("tenacity", "served", "audits of models that servers offer"),
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


NO_ROOM = "can't allocate memory"
"""What torch says of the processor's memory, in an error that has no class of its own."""


@contextmanager
def memory_errors(*, fix: str) -> Iterator[None]:
    """Turn what is raised when memory runs out into a refusal that says ``fix``.

    Raises:
        ModelError: the block needed more memory than there is.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and NO_ROOM not in str(error):
            raise
        first, *_ = str(error).splitlines() or [""]
        raise ModelError(
            "this machine's memory is too small for this", why=first or "There is no room left.", fix=fix
        ) from error


# A full disk, reported in one way: every library that meets one has its own error.

CUT_SHORT = re.compile(r"I/O error: (?P<reason>.*) \(os error|inline_container|PytorchStreamWriter")
"""What safetensors and ``torch.save`` say when the file system takes no more bytes."""
MIB = 1 << 20


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn whatever a library raises when ``target`` cannot be written into a refusal.

    Raises:
        OutputError: the block could not write, because the disk is full, say.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        match = CUT_SHORT.search(str(error))
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
        elif match is not None:
            reason = match["reason"] or "A file was cut short"
        else:
            raise
        home = next(parent for parent in target.absolute().parents if parent.is_dir())
        free = shutil.disk_usage(home).free / MIB
        raise OutputError(
            f"cannot write {target}", why=f"{reason}; {free:.0f} MiB are free there.", fix=FREE_SPACE_FIX
        ) from error


# Which device to compute on.


def best_device() -> torch.device:
    """The accelerator if there is one, else the processor.

    Of several processes launched together each takes an accelerator of its own.
    """
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    if "LOCAL_RANK" in os.environ:
        local_device = int(os.environ["LOCAL_RANK"]) % torch.accelerator.device_count()
        torch.accelerator.set_device_index(local_device)
    return torch.accelerator.current_accelerator() or torch.device("cpu")


# Processes side by side: one thread each, no bars of their own, ended when their parent is gone.

NO_BARS = "TQDM_DISABLE"
"""Set where the parent draws the screen; its workers draw no progress bars."""


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool that ends with the block.

    An error in the block, Ctrl-C included, ends the workers at once: whatever they write is written
    whole or not at all, and is gone on with the next time.
    """
    others = set(active_children())
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin)
    before = os.environ.get(NO_BARS)
    os.environ[NO_BARS] = "1"
    try:
        yield pool
    except BaseException:
        for worker in set(active_children()) - others:
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        if before is None:
            del os.environ[NO_BARS]
        else:
            os.environ[NO_BARS] = before


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all: the parent decides
    torch.set_num_threads(1)
    quiet_loggers()
    start_light()
