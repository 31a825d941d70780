"""A checkpoint written as it will be once quantized, in each form it can be written in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from expunge.errors import RecipeError, did_you_mean
from expunge.files import RECORD, claiming, refuse_existing, replaced_by, write_json, writing
from expunge.model.compressed import BITS, METHOD
from expunge.model.load import hash_model, load_model, load_tokenizer, require_savable, save_model
from expunge.model.resources import disk_errors
from expunge.quant import FULL_PRECISION, bnb, parse_quantizer
from expunge.quant.bnb import FP4, NF4, BnbInt8
from expunge.quant.calibration import SELF, CalibrationSource, text_of_file, unread
from expunge.quant.compressed import (
    INSTEAD,
    deploy,
    factors,
    packed_state,
    quantization_config,
    require_layers,
    require_levels,
)
from expunge.quant.gguf.export import SUFFIX, export_gguf, gguf_quantizer
from expunge.quant.gguf.quantizer import GGUF
from expunge.quant.llmc import LLMCompressorAWQ
from expunge.quant.rtn import GridQuantizer
from expunge.record import Stopwatch, make_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.quant.base import Quantizer, TensorCoverage
    from expunge.quant.calibration import Calibration

FormatName = Literal["values", "compressed-tensors", "bitsandbytes"]


class WriteRequest(NamedTuple):
    """What is to be written; the model may be changed on the way."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    quantizer: Quantizer
    calibration: Calibration | None


class WrittenFolder(NamedTuple):
    """What became of each tensor, and the hash of the model that the folder is loaded as."""

    coverage: tuple[TensorCoverage, ...]
    sha256: str


def choose_format(requested: str | None, quantizer: Quantizer) -> FormatName:
    """The form asked for, or the one that ``quantizer`` is deployed in.

    Raises:
        RecipeError: there is no such form, or it cannot hold what the quantizer does.
    """
    if requested is None:
        return _deployed_as(quantizer)
    if requested not in WRITERS:
        raise RecipeError(
            f"--format {requested}", why="there is no such format.", fix=did_you_mean(requested, WRITERS)
        )
    if requested == METHOD:
        require_levels(quantizer)
    if requested == bnb.METHOD:
        bnb.require_bitsandbytes(quantizer)
    return requested  # type: ignore[return-value]


def formats_of(quantizer: Quantizer) -> tuple[str, ...]:
    """Every form that ``quantizer`` can be written in, its default first; ``.gguf`` is a file."""
    file = (SUFFIX,) if isinstance(quantizer, GGUF) else ()
    return (*dict.fromkeys((_deployed_as(quantizer), "values")), *file)


def _deployed_as(quantizer: Quantizer) -> FormatName:
    if isinstance(quantizer, BnbInt8):
        return "bitsandbytes"
    if isinstance(quantizer, FP4 | NF4):
        return "bitsandbytes" if quantizer.blocksize == bnb.USUAL_BLOCK else "values"
    on_grid = isinstance(quantizer, GridQuantizer) and not isinstance(quantizer, LLMCompressorAWQ)
    grid = quantizer.grid
    if on_grid and grid is not None and grid.bits in BITS and grid.mode != "paper":
        return "compressed-tensors"
    return "values"


def write_values(order: WriteRequest, folder: Path) -> WrittenFolder:
    """Ordinary safetensors with the values that the integers stand for."""
    with order.quantizer.applied(order.model, order.calibration) as transformed:
        save_model(order.model, order.tokenizer, folder)
        return WrittenFolder(transformed.coverage, hash_model(order.model))


def write_compressed(order: WriteRequest, folder: Path) -> WrittenFolder:
    """Packed integers as compressed-tensors has them."""
    model, quantizer = order.model, order.quantizer
    require_layers(quantizer, model)
    packed = quantizer.packed(model, order.calibration)
    if packed is None:
        raise RecipeError(
            f"{quantizer.label} as {METHOD}", why="it gives values and no integers.", fix=INSTEAD
        )
    divided = set(factors(model, packed))
    coverage = tuple(_told(tensor, order.calibration, divided) for tensor in quantizer.coverage(model))
    stored = deploy(model, packed)
    save_model(
        model,
        order.tokenizer,
        folder,
        state=packed_state(model, stored),
        quantization=quantization_config(model, stored),
    )
    return WrittenFolder(coverage, hash_model(model))


def write_bitsandbytes(order: WriteRequest, folder: Path) -> WrittenFolder:
    """Packed weights as bitsandbytes has them."""
    quantizer = bnb.require_bitsandbytes(order.quantizer)
    state = bnb.stored_state(order.model, quantizer)
    config = bnb.bitsandbytes_config(order.model, quantizer)
    with quantizer.applied(order.model) as transformed:
        save_model(order.model, order.tokenizer, folder, state=state, quantization=config)
        return WrittenFolder(transformed.coverage, hash_model(order.model))


WRITERS: dict[str, Callable[[WriteRequest, Path], WrittenFolder]] = {
    "values": write_values,
    "compressed-tensors": write_compressed,
    "bitsandbytes": write_bitsandbytes,
}


def _told(tensor: TensorCoverage, calibration: Calibration | None, divided: set[str]) -> TensorCoverage:
    if tensor.how is not None:
        return replace(tensor, how=f"{tensor.how}; calibrated on {calibration}") if calibration else tensor
    if tensor.name.rpartition(".")[0] in divided:
        return replace(tensor, why_not=f"{tensor.why_not}, divided by the factors of the layers after it")
    return tensor


# A checkpoint written as it will be once it is quantized.


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What became of the tensors of an exported checkpoint."""

    label: str
    format: str
    tensors: int
    quantized: int
    left_alone: dict[str, int]

    @classmethod
    def of(cls, quantizer: Quantizer, form: str, coverage: tuple[TensorCoverage, ...]) -> Self:
        """The count of a coverage."""
        return cls(
            label=quantizer.label,
            format=form,
            tensors=len(coverage),
            quantized=sum(tensor.how is not None for tensor in coverage),
            left_alone=dict(Counter(tensor.why_not for tensor in coverage if tensor.why_not)),
        )


@dataclass(frozen=True, kw_only=True)
class QuantizeJob:
    """A quantization as it is asked for on the command line.

    ``calibrate``: ``self`` or a file of text for quantizers that read some first (``self`` if not given).
    ``format``: a name in ``formats.WRITERS``; if not given, the one the quantizer is deployed in.
    """

    model: str
    to: str
    output: Path
    format: str | None = None
    calibrate: str | None = None
    samples: int = 128
    length: int = 512
    seed: int = 0
    fields: Mapping[str, str] | None = None
    overwrite: bool = False
    trust_remote_code: bool = False

    def run(self) -> Exported:
        """Round the weights and write the folder with ``coverage.json`` and ``record.json``.

        An output that ends in ``.gguf`` is one file for llama.cpp; its record is in ``.record.json``.
        """
        if self.output.suffix == SUFFIX:
            return self._file()
        with claiming(self.output):
            return self._folder()

    def _folder(self) -> Exported:
        refuse_existing(self.output, overwrite=self.overwrite)
        if self.to.strip().lower() in FULL_PRECISION:
            raise RecipeError(
                f"--to {self.to}", why="full precision changes nothing.", fix="Name a quantizer, say int4."
            )
        quantizer = parse_quantizer(self.to)
        text = self._text(quantizer)
        form = choose_format(self.format, quantizer)
        watch = Stopwatch()
        model = load_model(self.model, trust_remote_code=self.trust_remote_code)
        tokenizer = load_tokenizer(self.model, model=model, trust_remote_code=self.trust_remote_code)
        require_savable(model, tokenizer)
        source = hash_model(model)
        calibration = None if text is None else text.tokens(model, tokenizer)
        may_replace = replaced_by(overwrite=self.overwrite)
        with disk_errors(self.output), writing(self.output, may_replace=may_replace) as folder:
            written = WRITERS[form](WriteRequest(model, tokenizer, quantizer, calibration), folder)
            write_json(folder / "coverage.json", [tensor.to_dict() for tensor in written.coverage])
            record = make_record(
                command="quantize",
                watch=watch,
                source=self.model,
                source_sha256=source,
                result_sha256=written.sha256,
                format=form,
                quantizer={"label": quantizer.label, **quantizer.model_dump(mode="json")},
                calibration=None
                if text is None or calibration is None
                else text.facts | calibration.to_dict(),
            )
            write_json(folder / RECORD, record)
        return Exported.of(quantizer, form, written.coverage)

    def _file(self) -> Exported:
        if self.format is not None:
            raise RecipeError(
                f"--format {self.format} with {self.output}",
                why=f"a {SUFFIX} file has one form, and the formats are folders.",
                fix=f"Leave out --format, or name an output without {SUFFIX}.",
            )
        quantizer = gguf_quantizer(self.to)
        self._text(quantizer)  # refuses calibration text that would not be used
        coverage = export_gguf(
            self.model,
            quantizer,
            self.output,
            overwrite=self.overwrite,
            trust_remote_code=self.trust_remote_code,
        )
        return Exported.of(quantizer, "gguf", coverage)

    def _text(self, quantizer: Quantizer) -> CalibrationSource | None:
        amount = {"samples": self.samples, "length": self.length, "seed": self.seed}
        if not quantizer.calibrated:
            if self.calibrate is None:
                return None
            raise unread(self.calibrate)
        name, texts = (
            (SELF, ()) if self.calibrate in (None, SELF) else text_of_file(self.calibrate, self.fields)
        )
        return CalibrationSource(name=name, texts=texts, **amount)
