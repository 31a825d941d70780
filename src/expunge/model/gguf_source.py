"""A GGUF file as a plain checkpoint folder: its weights as floats, with a tokenizer that ends its turns."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import platformdirs
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from expunge.errors import MissingExtraError, ModelError
from expunge.files import MayReplace, nothing, write_json
from expunge.model.checkpoint import reading
from expunge.model.load import check_normalizer, check_vocabulary, save_model
from expunge.model.quantized import forget_quantization
from expunge.parsing import load_json
from expunge.record import hash_json, versions

MAGIC = b"GGUF"
_TURN = re.compile(r"message\[.content.\]\s*\+\s*'(<[^']+?>)'")
"""What a chat template puts behind the content of a message."""


def plain_folder(file: Path, folder: Path, *, may_replace: MayReplace = nothing) -> Path:
    """Write the model and the tokenizer of a GGUF file as a folder with weights in float32.

    The floats are those that the stored integers and scales stand for.

    Raises:
        ModelError: it is not a GGUF file, or transformers cannot read its architecture.
        MissingExtraError: the ``gguf`` package is not installed.
        OutputError: the folder cannot be written.
    """
    _require_gguf(file)
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError(f"reading {file}", extra="gguf")
    source: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    with reading(file, "model"):
        model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **source)
    with reading(file, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **source)
    check_normalizer(tokenizer)
    tokenizer.clean_up_tokenization_spaces = False  # what is decoded is what was written, spaces and all
    _begin_as_stated(tokenizer, file)
    end = end_of_turn(tokenizer, model.config.eos_token_id)
    if end is not None:
        tokenizer.eos_token = end
        tokenizer.pad_token = tokenizer.pad_token or end
        number = tokenizer.convert_tokens_to_ids(end)
        model.config.eos_token_id = model.generation_config.eos_token_id = number
    check_vocabulary(model, tokenizer)
    forget_quantization(model.config)  # the file was quantized; these weights are not
    model.hf_quantizer = None
    model.is_quantized = False
    save_model(model, tokenizer, folder, may_replace=may_replace)
    return folder


SOURCE = "gguf-source.json"
"""Beside the plain folder of a GGUF file: which file it was."""


def cached_folder(file: Path, home: Path | None = None) -> Path:
    """The plain folder of a GGUF file in the user's cache, written on first use.

    Raises:
        ModelError: see ``plain_folder``.
    """
    _require_gguf(file)
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    installed = versions()
    made_by = {name: installed[name] for name in ("torch", "transformers", "tokenizers")}
    key = hash_json({"sha256": digest, "versions": made_by})[:16]
    folder = (home or platformdirs.user_cache_path("expunge") / "gguf") / key / file.stem
    if not folder.exists():
        plain_folder(file, folder)
    write_json(folder.with_name(SOURCE), {"file": str(file.absolute()), "sha256": digest})
    return folder


def source_of(path_or_id: str) -> str:
    """The GGUF file that a folder of ``cached_folder`` was read from; every other model as it is named."""
    note = Path(path_or_id).with_name(SOURCE)
    return str(load_json(note.read_bytes())["file"]) if note.is_file() else path_or_id


def end_of_turn(tokenizer: Any, declared: int | None) -> str | None:
    """The token that ends a turn: the one its chat template writes, else the one that the file declares.

    The conversion of transformers may take the token that begins a turn for the end of a sequence.
    """
    written = _TURN.search(tokenizer.chat_template or "")
    if written and written[1] in tokenizer.get_vocab():
        return written[1]
    token = None if declared is None else tokenizer.convert_ids_to_tokens(declared)
    return token if isinstance(token, str) else None


def _begin_as_stated(tokenizer: Any, file: Path) -> None:
    """Put the token that begins a text before it where the file says so; transformers passes over that."""
    from gguf import GGUFReader  # transformers has read the file with it, so it is there

    stated = GGUFReader(file).get_field("tokenizer.ggml.add_bos_token")
    begin = tokenizer.bos_token
    if stated is None or not stated.contents() or begin is None:
        return
    number = tokenizer.convert_tokens_to_ids(begin)
    if tokenizer("a", verbose=False)["input_ids"][:1] != [number]:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=[begin, "$A"], pair=[begin, "$A", "$B:1"], special_tokens=[(begin, number)]
        )


def _require_gguf(file: Path) -> None:
    try:
        with file.open("rb") as stream:
            is_gguf = stream.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise ModelError(
            f"cannot read {file}", why=str(error.strerror or error), fix="Name a GGUF file."
        ) from error
    if not is_gguf:
        raise ModelError(f"{file}", why="it is not a GGUF file.", fix="Name a file written by llama.cpp.")
