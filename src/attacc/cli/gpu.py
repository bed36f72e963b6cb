"""``attacc gpu``: the calibrated GPU model, fitted to measurements and checked against them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attacc.cli.options import Json, size
from attacc.cli.output import check_target, print_answer
from attacc.errors import InputError
from attacc.files import name_as_text

if TYPE_CHECKING:
    from attacc.calibration.check import Accuracy
    from attacc.calibration.measured import MeasuredTable
    from attacc.calibration.tables import Table

app = typer.Typer(
    help="The calibrated GPU model: fit it to measured operators, and check it against them."
)

Measured = Annotated[
    list[Path],
    typer.Argument(
        metavar="MEASURED...",
        help="Tables of measured operators: Parquet or CSV (docs/model/gpu-model.md).",
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
    serving: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Serving framework to predict its runs with; by default its preset.",
        ),
    ] = None,
    by_version: Annotated[
        bool,
        typer.Option(help="Tell versions of a framework apart, instead of putting them together."),
    ] = False,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw a figure: .svg, .png or .pdf.")
    ] = None,
    json: Json = False,
) -> None:
    """Predict measured operators or serving runs, and tell the errors by size."""
    from attacc.calibration.check import accuracy, measured_names
    from attacc.calibration.check import check as run_check
    from attacc.calibration.serving import check_serving, serving_runs
    from attacc.gpu.calibrated.kernels import CalibratedGpu
    from attacc.gpu.frameworks import SERVING
    from attacc.report.gpu import accuracy_tables, write_accuracy_figure

    if figure is not None:
        from attacc.report.figures import check_figure

        check_target(figure, "--figure", measured)
        check_figure(figure)
    calibrated = None if gpu is None else CalibratedGpu.load(gpu, where="--gpu")
    own = None if serving is None else SERVING.load_name_or_file(serving, where="--serving")
    operators, runs = _apart(measured)
    if runs and calibrated is not None:
        raise InputError(
            "serving runs are predicted with the presets of their GPUs",
            where=f"--gpu {gpu}",
            hint=f"leave it out, or leave out {runs[0].path.name}",
        )
    measurements = _together(operators)
    series, unusable = measurements.series, measurements.unusable
    if calibrated is not None:
        found = [*(data.key.gpu for data in series), *(left.gpu for left in unusable)]
        names = measured_names(found, calibrated)
        series = [data for data in series if data.key.gpu in names]
        unusable = [left for left in unusable if left.gpu in names]
    checked = run_check(series, calibrated)
    rows = accuracy(checked, unusable, by_version=by_version)
    for table in runs:
        rows += check_serving(serving_runs(table), own, by_version=by_version)
    if figure is not None:
        if not checked:
            raise InputError("draws operators, and there are none", where=f"--figure {figure}")
        write_accuracy_figure(checked, figure)
    print_answer(rows, accuracy_tables, as_json=json)


@app.command()
def fit(
    measured: Measured,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Document to write (TOML).")
    ],
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="GPU whose data sheet the shares refer to; for operators."
        ),
    ] = None,
    measured_as: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What the tables call the GPU, where they hold several."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="FRAMEWORK", help="Framework that stands for the GPU."),
    ] = None,
    framework: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Framework to fit to its runs; for serving runs."),
    ] = None,
    kernels: Annotated[
        str | None,
        typer.Option(
            metavar="FRAMEWORK",
            help="Whose operators stand for those of --framework; by default what its preset says.",
        ),
    ] = None,
    folds: Annotated[
        int,
        typer.Option(
            parser=size("--folds", most=20, least=0),
            metavar="N",
            help="Parts of the cross-validation, up to 20; 0 for none.",
        ),
    ] = 3,
    json: Json = False,
) -> None:
    """Fit the calibrated model to one's own measurements: operators, or serving runs."""
    from attacc.calibration.document import check_document
    from attacc.report.gpu import accuracy_tables

    check_target(output, "--output", measured)
    check_document(output, "--output")
    operators, runs = _apart(measured)
    if operators and runs:
        raise InputError(
            f"{operators[0].path.name} holds operators, and {runs[0].path.name} serving runs",
            hint="fit one after the other",
        )
    if runs:
        rows = _fit_serving(runs, output, framework, kernels)
    else:
        rows = _fit_operators(operators, output, gpu, measured_as, reference, folds)
    print_answer(rows, accuracy_tables, as_json=json)


def _fit_operators(
    tables: list[Table],
    output: Path,
    gpu: str | None,
    measured_as: str | None,
    reference: str | None,
    folds: int,
) -> list[Accuracy]:
    from attacc.calibration.check import accuracy
    from attacc.calibration.document import write_document
    from attacc.calibration.fit import fit_calibration, fitted_tables, held_back_rows
    from attacc.documents import names_file
    from attacc.gpu.calibrated.kernels import preset_of
    from attacc.hardware.gpu import GPUS

    if gpu is None:
        raise InputError("is missing", where="--gpu", hint="name the GPU whose operators they are")
    sheet = GPUS.load_name_or_file(preset_of(gpu), where="--gpu")
    measurements = _together(tables)
    unusable = measurements.unusable
    if not measurements.series:
        reasons = dict.fromkeys(left.reason for left in unusable)
        raise InputError(
            f"no row can be fitted: {'; '.join(reasons)}",
            where=", ".join(table.path.name for table in tables),
        )
    series = fitted_tables(measurements.series, sheet, measured_as)
    spec, held_back = fit_calibration(
        name_as_text(output.stem),
        sheet,
        series,
        reference=reference,
        source=_source(tables),
        folds=folds,
    )
    if names_file(gpu):
        # A document names other files relative to its own folder.
        spec = spec.model_copy(update={"gpu": os.path.relpath(gpu, output.parent)})
    write_document(spec, output)
    unusable = [left for left in unusable if left.gpu in spec.measured_as]
    return accuracy(held_back_rows(held_back, spec), unusable, by_version=True)


def _fit_serving(
    tables: list[Table], output: Path, framework: str | None, kernels: str | None
) -> list[Accuracy]:
    from attacc.calibration.document import write_document
    from attacc.calibration.serving import fit_serving, known_kernels, served, serving_runs

    runs = [run for table in tables for run in serving_runs(table)]
    found = sorted({run.framework for run in runs})
    name = framework or (found[0] if len(found) == 1 else None)
    if name not in found:
        raise InputError(
            f"the runs are of {', '.join(found)}",
            where="--framework",
            hint="name one of them",
        )
    library = kernels or known_kernels().get(name)
    if library is None:
        raise InputError(
            f"nothing is known of the operators of {name}",
            where="--kernels",
            hint="name a framework whose operators were measured, as VLLM",
        )
    steps = served(runs, {name: library})
    fitted = fit_serving(name_as_text(output.stem), name, library, steps, _source(tables))
    write_document(fitted.spec, output)
    return fitted.rows


def _source(tables: list[Table]) -> str:
    names = ", ".join(name_as_text(table.path.name) for table in tables)
    return f"fitted by attacc gpu fit to {names}"


@app.command()
def extrapolate(
    measured: Measured,
    unseen: Annotated[
        str | None, typer.Option(metavar="NAME", help="GPU to predict from its data sheet.")
    ] = None,
    seen: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="GPU to fit for that; may be given several times."),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            parser=size("--rows"),
            metavar="M",
            help="Predict products of more rows from up to M.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Predict what no fit has seen: another GPU, or products of more rows."""
    from attacc.calibration.extrapolate import extrapolate_gpu, extrapolate_rows
    from attacc.calibration.measured import read_measurements
    from attacc.gpu.calibrated.kernels import preset_of
    from attacc.report.gpu import extrapolation_table

    if (rows is None) == (unseen is None) or (unseen is None) != (not seen):
        raise InputError(
            "nothing says what to predict, or too much does",
            where="extrapolate",
            hint="use --unseen with --seen, or --rows",
        )
    tables = [data for path in measured for data in read_measurements(path)]
    if rows is not None:
        found = extrapolate_rows(tables, rows)
    else:
        names = [preset_of(name) for name in seen or ()]
        found = extrapolate_gpu(tables, preset_of(unseen or ""), names)
    print_answer(found, extrapolation_table, as_json=json)


def _apart(paths: list[Path]) -> tuple[list[Table], list[Table]]:
    """Read tables, each once, and return those of operators, and those of serving runs."""
    from attacc.calibration.serving import is_serving_table
    from attacc.calibration.tables import open_table

    operators: list[Table] = []
    serving: list[Table] = []
    for table in map(open_table, paths):
        (serving if is_serving_table(table) else operators).append(table)
    return operators, serving


def _together(tables: list[Table]) -> MeasuredTable:
    """Return the measurements of several tables."""
    from attacc.calibration.measured import MeasuredTable, measurements

    found = [measurements(table) for table in tables]
    return MeasuredTable(
        [data for table in found for data in table.series],
        [left for table in found for left in table.unusable],
    )
