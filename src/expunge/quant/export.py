"""A checkpoint written as it will be once it is quantized: ordinary safetensors with rounded values."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from expunge.errors import RecipeError
from expunge.files import RECORD, refuse_existing, write_json, writing
from expunge.model.disk import disk_errors
from expunge.model.load import hash_model, load_model, load_tokenizer, save_model
from expunge.quant.parse import FULL_PRECISION, parse_quantizer
from expunge.record import Stopwatch, make_record


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What became of the tensors of an exported checkpoint."""

    label: str
    tensors: int
    quantized: int
    left_alone: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class QuantizeJob:
    """A quantization as it is asked for on the command line."""

    model: str
    to: str
    output: Path
    overwrite: bool = False
    trust_remote_code: bool = False

    def run(self) -> Exported:
        """Round the weights and write the folder with ``coverage.json`` and ``record.json``."""
        refuse_existing(self.output, overwrite=self.overwrite)
        if self.to.strip().lower() in FULL_PRECISION:
            raise RecipeError(
                f"--to {self.to}", why="full precision changes nothing.", fix="Name a quantizer, say int4."
            )
        quantizer = parse_quantizer(self.to)
        watch = Stopwatch()
        model = load_model(self.model, trust_remote_code=self.trust_remote_code)
        tokenizer = load_tokenizer(self.model, model=model, trust_remote_code=self.trust_remote_code)
        source = hash_model(model)
        with (
            disk_errors(self.output),
            quantizer.applied(model) as transformed,
            writing(self.output) as folder,
        ):
            save_model(model, tokenizer, folder)
            write_json(folder / "coverage.json", [tensor.to_dict() for tensor in transformed.coverage])
            record = make_record(
                command="quantize",
                watch=watch,
                source=self.model,
                source_sha256=source,
                result_sha256=hash_model(model),
                quantizer={"label": quantizer.label, **quantizer.model_dump(mode="json")},
            )
            write_json(folder / RECORD, record)
        reasons = Counter(tensor.why_not for tensor in transformed.coverage if tensor.why_not)
        return Exported(
            label=quantizer.label,
            tensors=len(transformed.coverage),
            quantized=sum(tensor.how is not None for tensor in transformed.coverage),
            left_alone=dict(reasons),
        )
