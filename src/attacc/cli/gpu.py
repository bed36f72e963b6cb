"""``attacc gpu``: the calibrated GPU model, fitted to measurements and checked against them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attacc.cli.options import Json
from attacc.cli.output import check_source, check_target, print_json, print_rich
from attacc.errors import InputError

if TYPE_CHECKING:
    from attacc.study.measured import Measurements

app = typer.Typer(
    help="The calibrated GPU model: fit it to measured operators, and check it against them."
)

Measured = Annotated[
    list[Path],
    typer.Argument(
        metavar="MEASURED...",
        help="Tables of measured operators: Parquet or CSV (docs/gpu-model.md).",
    ),
]


@app.command()
def check(
    measured: Measured,
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Calibration to predict with; by default every GPU's own preset.",
        ),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw a figure: .svg, .png or .pdf.")
    ] = None,
    json: Json = False,
) -> None:
    """Predict measured operators, and tell the errors by operator and size."""
    from attacc.report.gpu import accuracy_tables, write_accuracy_figure
    from attacc.study.gpu_check import accuracy
    from attacc.study.gpu_check import check as run_check
    from attacc.study.gpu_serving import check_serving, read_runs
    from attacc.system.calibrated import CalibratedGpu

    if figure is not None:
        check_target(figure, "--figure", measured)
    calibrated = None if gpu is None else CalibratedGpu.load(gpu, where="--gpu")
    operators, serving = _apart(measured)
    if serving and calibrated is not None:
        raise InputError(
            "serving runs are predicted with the presets of their GPUs",
            where=f"--gpu {gpu}",
            hint=f"leave it out, or leave out {serving[0].name}",
        )
    checked = run_check(_read(operators), calibrated)
    rows = accuracy(checked)
    for path in serving:
        rows += check_serving(read_runs(path))
    if figure is not None:
        if not checked:
            raise InputError("draws operators, and there are none", where=f"--figure {figure}")
        write_accuracy_figure(checked, figure)
    if json:
        print_json(rows)
    else:
        print_rich(accuracy_tables(rows))


@app.command()
def fit(
    measured: Measured,
    gpu: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="GPU whose data sheet the shares refer to.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Document to write (TOML).")
    ],
    measured_as: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What the tables call the GPU, where they hold several."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="FRAMEWORK", help="Framework that stands for the GPU."),
    ] = None,
    folds: Annotated[
        int, typer.Option(min=0, max=20, help="Parts of the cross-validation; 0 for none.")
    ] = 3,
    json: Json = False,
) -> None:
    """Fit the calibrated model to one's own measurements."""
    from attacc.hardware.gpu import GPUS
    from attacc.report.gpu import accuracy_tables
    from attacc.study.gpu_check import accuracy
    from attacc.study.gpu_document import write_document
    from attacc.study.gpu_fit import fit_calibration, fitted_tables, held_back_rows
    from attacc.system.calibrated import preset_of

    check_target(output, "--output", measured)
    sheet = GPUS.load_name_or_file(preset_of(gpu), where="--gpu")
    tables = fitted_tables(_read(measured), sheet, measured_as)
    spec, held_back = fit_calibration(
        output.stem,
        sheet,
        tables,
        reference=reference,
        source=f"fitted by attacc gpu fit to {', '.join(path.name for path in measured)}",
        folds=folds,
    )
    write_document(spec, output)
    rows = accuracy(held_back_rows(held_back, spec))
    if json:
        print_json(rows)
    else:
        print_rich(accuracy_tables(rows))


def _apart(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """Return the tables of operators, and those of serving runs."""
    from attacc.study.gpu_serving import is_serving_table

    for path in paths:
        check_source(path)
    serving = [path for path in paths if is_serving_table(path)]
    return [path for path in paths if path not in serving], serving


def _read(paths: list[Path]) -> list[Measurements]:
    from attacc.study.measured import read_measurements

    for path in paths:
        check_source(path)
    return [series for path in paths for series in read_measurements(path)]
