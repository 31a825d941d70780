"""``expunge quantize``: quantize a checkpoint and save it."""

from __future__ import annotations

from typing import Annotated

import typer

from expunge.cli.options import (
    Calibrate,
    CalibrationLength,
    CalibrationSamples,
    Field,
    Output,
    Overwrite,
    RemoteCode,
    Seed,
    Template,
    fields,
    print_done,
)
from expunge.terminal import echo


def quantize(
    model: Annotated[str, typer.Argument(help="Folder of the checkpoint.")],
    to: Annotated[
        str,
        typer.Option(
            "--to", "-q", help="int8, int4, int4-g64, gptq4-g128, awq4-g128, fp4, nf4, gguf-q4_k, ..."
        ),
    ],
    output: Output,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="values, compressed-tensors or bitsandbytes. Default: as the quantizer is served.",
        ),
    ] = None,
    calibrate: Calibrate = None,
    calibration_samples: CalibrationSamples = 128,
    calibration_length: CalibrationLength = 512,
    field: Field = None,
    template: Template = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Quantize a checkpoint and save it as it will be deployed.

    4- and 8-bit integers (int4, int8, gptq4, awq4, ...) are saved in the compressed-tensors format, fp4,
    nf4 and bnb-int8 in that of bitsandbytes. Transformers and vLLM serve both; [bold]audit[/] reads both.
    --format values saves the dequantized values as ordinary safetensors instead, for any quantizer.
    coverage.json lists how each tensor was treated.

    If the output path ends in .gguf, a single file for llama.cpp is written, with its record and coverage
    next to it.

    Example:  expunge quantize ./unlearned -q int4-g64 -o ./unlearned-int4

    Example:  expunge quantize ./unlearned -q gguf-q4_k -o unlearned.gguf
    """
    from expunge.quant.export import QuantizeJob

    done = QuantizeJob(
        model=model,
        to=to,
        output=output,
        format=form,
        calibrate=calibrate,
        samples=calibration_samples,
        length=calibration_length,
        seed=seed,
        fields=fields(field, template),
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
    ).run()
    print_done(
        f"{done.quantized} of {done.tensors} tensors rounded to {done.label} ({done.format}): {output}"
    )
    for reason, count in done.left_alone.items():
        echo(f"  {count} not quantized: {reason}")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(quantize)
