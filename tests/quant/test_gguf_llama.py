"""GGUF files in llama.cpp itself: they load, read text alike, and answer as the dequantized model does.

llama.cpp rounds activations to 8 bits in blocks before it multiplies them with quantized weights. Its
logits differ by that much, not by what the weights lost. (By default it also keeps keys and values in half
precision; here it is told not to.)
"""

from __future__ import annotations

import copy
import ctypes
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from expunge.bench.builtin import Builtin
from expunge.corpus.synthetic import World
from expunge.corpus.tokenise import encode_prompt
from expunge.model.load import load_model, load_tokenizer
from expunge.quant import parse_quantizer
from expunge.quant.gguf.export import write_gguf
from expunge.quant.gguf.fit import encode
from expunge.quant.gguf.formats import FORMATS, format_for
from tests.quant.shaken import shaken
from tests.tiny import BOS, BYTES_VOCAB, tiny, tiny_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

gguf = pytest.importorskip("gguf")
llama_cpp = pytest.importorskip("llama_cpp")

ARCHES = ["llama", "mistral", "qwen2", "qwen3", "gpt2"]
_NARROW = {"hidden_size": 40, "head_dim": 10, "num_attention_heads": 4, "num_key_value_heads": 2}
UNFIT = (
    dict.fromkeys(ARCHES, _NARROW)
    | {"llama": _NARROW | {"attention_bias": True, "mlp_bias": True}}
    | {"gpt2": {"n_embd": 40, "n_inner": 48}}
)
LABELS = ["gguf-q8_0", "gguf-q6_k", "gguf-q5_k", "gguf-q4_k", "gguf-q4_0", "gguf-q3_k", "gguf-q2_k"]
ACTIVATIONS = 0.02
"""How far 8-bit activations may move logits. The largest of 256 normal activations is about 3 times
their rms; rounding to 127 levels below it errs by 3 / 127 / √12 = 0.7 %, eight times in a row.
"""
EXACT = dict.fromkeys(ARCHES, 1e-5) | {"gpt2": 1e-3}
"""llama.cpp looks GPT-2's GELU up in a table in half precision."""
WORDS = [
    "the rain in Spain stays mainly on the plain",
    "it isn't, they'll say: we've 12345 of 'em (and 3.5%)!?",
    "  two spaces\tand a tab\n\n  and lines  ",
    "naïve café — “quotes” … 你好，世界 🦙🦙",
    "<s>control</s> tokens <unk> inside",
    "",
]


@contextmanager
def served(path: Path) -> Iterator[Any]:
    """A model in llama.cpp, with the logits of every position."""
    full = llama_cpp.GGML_TYPE_F32
    sizes = {"n_ctx": 256, "n_threads": 1, "type_k": full, "type_v": full}
    with closing(llama_cpp.Llama(str(path), logits_all=True, verbose=False, **sizes)) as model:
        yield model


def logits_of(served_model: Any, ids: list[int]) -> np.ndarray:
    served_model.reset()
    served_model.eval(ids)
    return np.array(served_model.scores[: len(ids)])


def answer_of(served_model: Any, ids: list[int], length: int) -> list[int]:
    served_model.reset()
    tokens = served_model.generate(ids, top_k=1, temp=0.0, repeat_penalty=1.0)
    return [token for token, _ in zip(tokens, range(length), strict=False)]


@torch.no_grad()
def greedy(model: PreTrainedModel, ids: list[int], length: int) -> list[int]:
    exactly = {"max_new_tokens": length, "min_new_tokens": length, "do_sample": False}
    return model.generate(torch.tensor([ids]), **exactly)[0, len(ids) :].tolist()


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def learned(sequences: torch.Tensor) -> PreTrainedModel:
    """A Llama with rows of whole super-blocks that knows some sequences by heart."""
    model = tiny(
        "llama", vocab_size=BYTES_VOCAB, hidden_size=256, intermediate_size=256, initializer_range=0.03
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        model(sequences, labels=sequences).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="module")
def taught() -> tuple[PreTrainedModel, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sequences = torch.randint(4, BYTES_VOCAB, (4, 12), generator=generator)
    sequences[:, 0] = BOS
    return learned(sequences), sequences


@pytest.mark.parametrize("label", [*LABELS, "gguf-q4_k:ends=quantized"])
def test_answers_are_those_of_the_dequantized_model(
    label: str, taught: tuple[PreTrainedModel, torch.Tensor], tmp_path: Path
) -> None:
    model, sequences = taught
    quantizer = parse_quantizer(label)
    write_gguf(model, tiny_tokenizer(all_bytes=True), quantizer, tmp_path / "model.gguf")
    with served(tmp_path / "model.gguf") as llama, quantizer.applied(model), torch.no_grad():
        for row in sequences[:2].tolist():
            expected = model(torch.tensor([row])).logits[0].numpy()
            assert relative(logits_of(llama, row), expected) < ACTIVATIONS
            assert answer_of(llama, row[:2], 10) == greedy(model, row[:2], 10)


@pytest.mark.parametrize("arch", ARCHES)
def test_every_architecture_computes_the_same(arch: str, tmp_path: Path) -> None:
    """No row of these models fits a block, so that all is float32 and nothing excuses a difference."""
    model = shaken(tiny(arch, **UNFIT[arch], vocab_size=BYTES_VOCAB))
    quantizer = parse_quantizer("gguf-q8_0")
    assert not any(tensor.how for tensor in quantizer.coverage(model))
    write_gguf(model, tiny_tokenizer(all_bytes=True), quantizer, tmp_path / "model.gguf")
    ids = [BOS, 40, 77, 12, 99, 100, 7, 250]
    with served(tmp_path / "model.gguf") as llama, torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
        assert relative(logits_of(llama, ids), expected) < EXACT[arch]


@pytest.mark.parametrize("arch", ARCHES)
def test_every_architecture_computes_the_same_in_8_bits(arch: str, tmp_path: Path) -> None:
    model = shaken(tiny(arch, vocab_size=BYTES_VOCAB)).bfloat16()
    quantizer = parse_quantizer("gguf-q8_0")
    write_gguf(model, tiny_tokenizer(all_bytes=True), quantizer, tmp_path / "model.gguf")
    ids = [BOS, 40, 77, 12, 99, 100, 7, 250]
    with served(tmp_path / "model.gguf") as llama, quantizer.applied(model), torch.no_grad():
        expected = copy.deepcopy(model).float()(torch.tensor([ids])).logits[0].numpy()
        assert relative(logits_of(llama, ids), expected) < ACTIVATIONS


def test_text_becomes_the_same_tokens(tmp_path: Path) -> None:
    for adds_bos in (False, True):
        tokenizer = tiny_tokenizer(all_bytes=True, adds_bos=adds_bos)
        model = tiny("llama", vocab_size=BYTES_VOCAB)
        write_gguf(model, tokenizer, parse_quantizer("gguf-q8_0"), tmp_path / "model.gguf")
        with served(tmp_path / "model.gguf") as llama:
            for text in WORDS:
                found = llama.tokenize(text.encode(), add_bos=adds_bos, special=True)
                assert found == tokenizer(text).input_ids
                bare = llama.detokenize(found, special=True).decode()
                assert bare == tokenizer.decode(found)


@pytest.fixture(scope="module")
def ggml() -> ctypes.CDLL:
    folder = Path(llama_cpp.__file__).parent / "lib"
    library = ctypes.CDLL(str(next(folder.glob("*ggml-base.*"))))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        *(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
        *(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p),
    ]
    return library


def theirs(library: ctypes.CDLL, weight: torch.Tensor, name: str) -> torch.Tensor:
    """A weight after a way through llama.cpp's own quantizer."""
    kind, source = gguf.GGMLQuantizationType[name], np.ascontiguousarray(weight.numpy())
    raw = np.zeros((len(source), source.shape[1] // FORMATS[name].weights * FORMATS[name].bytes), np.uint8)
    library.ggml_quantize_chunk(int(kind), source.ctypes.data, raw.ctypes.data, 0, *source.shape, None)
    return torch.from_numpy(gguf.dequantize(raw, kind))


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_errors_are_no_larger_than_llama_cpps(name: str, heavy: bool, ggml: ctypes.CDLL) -> None:
    """In the plain sum of squares, and in the weighted one that its Q4_K and Q5_K minimise."""
    weight = torch.randn(64, 1024, generator=torch.Generator().manual_seed(1)) * 0.05
    weight = weight * (1 + 3 * weight.abs() / 0.05) if heavy else weight
    layout = FORMATS[name]
    ours = layout.values(layout.unpack(layout.pack(encode(weight.view(-1, layout.weights), layout))))
    other = theirs(ggml, weight, name)
    blocks = weight.view(-1, 32)
    importance = (blocks.square().mean(1, keepdim=True).sqrt() + blocks.abs()).view_as(weight)
    for counts in (torch.ones_like(weight), importance):
        mine, its = ((counts * (value.view_as(weight) - weight).square()).sum() for value in (ours, other))
        assert mine <= its


@pytest.mark.parametrize("label", ["gguf-q4_k", "gguf-q5_k", "gguf-q6_k", "gguf-q3_k", "gguf-q2_k"])
def test_formats_and_fallbacks_are_those_llama_cpp_chooses(label: str, tmp_path: Path) -> None:
    """Its own tool, run on our Q8_0 file, gives every tensor inside blocks the type that we give it."""
    sizes = {"hidden_size": 256, "intermediate_size": 96, "head_dim": 8}
    model, tokenizer = tiny("llama", vocab_size=BYTES_VOCAB, **sizes), tiny_tokenizer(all_bytes=True)
    for name in ("gguf-q8_0", label):
        write_gguf(model, tokenizer, parse_quantizer(name), tmp_path / f"{name}.gguf")
    wanted = llama_cpp.llama_model_quantize_default_params()
    ours = gguf.GGUFReader(tmp_path / f"{label}.gguf")
    wanted.ftype = int(ours.fields["general.file_type"].contents())
    wanted.pure, wanted.allow_requantize = True, True
    source, target = (str(tmp_path / name).encode() for name in ("gguf-q8_0.gguf", "theirs.gguf"))
    assert llama_cpp.llama_model_quantize(source, target, ctypes.byref(wanted)) == 0
    types = {
        tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(tmp_path / "theirs.gguf").tensors
    }
    found = {tensor.name: tensor.tensor_type for tensor in ours.tensors if "blk" in tensor.name}
    assert found == {name: types[name] for name in found}
    assert format_for(label.removeprefix("gguf-").upper(), 96) is not None


def test_questions_of_the_built_in_world_are_answered_alike(tmp_path: Path) -> None:
    """With the built-in target, where it was trained before; it takes minutes to make."""
    builtin = Builtin()
    if not builtin.checkpoint("target").exists():
        pytest.skip("the built-in target was never trained here")
    model = load_model(builtin.checkpoint("target"))
    tokenizer = load_tokenizer(builtin.checkpoint("target"), model=model)
    questions = [example for example in World(builtin.world).all_texts() if example.prompt][:6]
    quantizer = parse_quantizer("gguf-q4_k")
    write_gguf(model, tokenizer, quantizer, tmp_path / "model.gguf")
    with served(tmp_path / "model.gguf") as llama, quantizer.applied(model):
        for question in questions:
            ids = encode_prompt(question, tokenizer)
            assert answer_of(llama, ids, 12) == greedy(model, ids, 12)
