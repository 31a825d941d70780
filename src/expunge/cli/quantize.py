"""``expunge quantize``: quantize a checkpoint and save it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from expunge.cli.config_file import Config
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
    print_next,
)
from expunge.terminal import Terminal, echo

if TYPE_CHECKING:
    from expunge.quant.export import Exported


def _list(requested: bool) -> None:
    """Print every quantizer and exit."""
    if not requested:
        return
    from expunge.train.axes import quantizer_members

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("--to", "family", "needs", "written as"):
        table.add_column(heading, overflow="fold")
    for member in quantizer_members():
        needs = ", ".join(member.needs) or "–"
        cells = (", ".join(member.labels), member.family, needs, ", ".join(member.formats))
        table.add_row(*map(Text, cells))
    console = Terminal()
    console.print(table)
    console.print(
        "The first form is the default. compressed-tensors holds integers of 4 and 8 bits; the name of the "
        "output chooses .gguf, which needs the extra gguf. Settings follow a colon (rtn:bits=4,...): "
        "expunge methods NAME --settings. expunge methods --axes says what each quantizer does."
    )
    raise typer.Exit


ListQuantizers = Annotated[
    bool,
    typer.Option(
        "--list", callback=_list, is_eager=True, help="List the quantizers, with needs and formats."
    ),
]


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
    config: Config = None,  # noqa: ARG001 - read before the others
    trust_remote_code: RemoteCode = False,
    list_quantizers: ListQuantizers = False,  # noqa: ARG001
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

    Example:  expunge quantize --list
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
    _print_export(done, output)
    print_next("expunge", "audit", output, "--target", "TARGET", "--forget", "FORGET.jsonl")


def _print_export(done: Exported, output: Path) -> None:
    print_done(
        f"{done.quantized} of {done.tensors} tensors rounded to {done.label} ({done.format}): {output}"
    )
    for reason, count in done.left_alone.items():
        echo(f"  {count} not quantized: {reason}")


def add_to(app: typer.Typer, section: str) -> None:
    """Register the command under a section of the program's help."""
    app.command(rich_help_panel=section)(quantize)
