"""A checkpoint written as it will be once it is quantized."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from expunge.errors import RecipeError
from expunge.files import RECORD, claiming, refuse_existing, replaced_by, write_json, writing
from expunge.model.disk import disk_errors
from expunge.model.load import hash_model, load_model, load_tokenizer, require_savable
from expunge.quant.calibration import SELF, CalibrationSource, text_of_file, unread
from expunge.quant.formats import WRITERS, Order, choose_format
from expunge.quant.gguf.export import SUFFIX, export_gguf, gguf_quantizer
from expunge.quant.parse import FULL_PRECISION, parse_quantizer
from expunge.record import Stopwatch, make_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from expunge.quant.base import Quantizer, TensorCoverage


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

        An output that ends in ``.gguf`` is one file that llama.cpp loads, with ``.record.json`` beside it.
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
            written = WRITERS[form](Order(model, tokenizer, quantizer, calibration), folder)
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
        self._text(quantizer)  # refuses text that nobody would read
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
