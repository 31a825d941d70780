"""``expunge quantize``: write a checkpoint as it will be once it is quantized."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

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
            help="values, compressed-tensors or bitsandbytes; by default what the quantizer is served as.",
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
    list_quantizers: ListQuantizers = False,  # noqa: ARG001
) -> None:
    """Quantize a checkpoint and save it as it will be deployed.

    4- and 8-bit integers (int4, int8, gptq4, awq4, ...) become a compressed-tensors folder, fp4, nf4 and
    bnb-int8 a bitsandbytes folder: transformers and vLLM serve both, and audit reads both. --format values
    writes the rounded values instead, as ordinary safetensors that any tool loads; it holds whatever a
    quantizer does. Every tensor's treatment is listed in coverage.json.

    With an output that ends in .gguf it is one file that llama.cpp loads, record and coverage beside it.

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


def _print_export(done: Exported, output: Path) -> None:
    print_done(
        f"{done.quantized} of {done.tensors} tensors rounded to {done.label} ({done.format}): {output}"
    )
    for reason, count in done.left_alone.items():
        echo(f"  {count} left alone: {reason}")


def add_to(app: typer.Typer) -> None:
    """Make the verb known."""
    app.command()(quantize)
