"""``attacc gpu``: the calibrated GPU model, fitted to measurements and checked against them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attacc.cli.options import Json
from attacc.cli.output import check_source, check_target, print_answer
from attacc.errors import InputError

if TYPE_CHECKING:
    from attacc.study.gpu_check import Accuracy
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
    from attacc.report.gpu import accuracy_tables, write_accuracy_figure
    from attacc.study.gpu_check import accuracy, measured_names
    from attacc.study.gpu_check import check as run_check
    from attacc.study.gpu_serving import check_serving, read_runs
    from attacc.study.measured import read_table
    from attacc.system.calibrated import CalibratedGpu
    from attacc.system.serving import SERVING

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
            hint=f"leave it out, or leave out {runs[0].name}",
        )
    tables = [read_table(path) for path in operators]
    series = [data for table in tables for data in table.series]
    unusable = [left for table in tables for left in table.unusable]
    if calibrated is not None:
        found = [*(data.key.gpu for data in series), *(left.gpu for left in unusable)]
        names = measured_names(found, calibrated)
        series = [data for data in series if data.key.gpu in names]
        unusable = [left for left in unusable if left.gpu in names]
    checked = run_check(series, calibrated)
    rows = accuracy(checked, unusable, by_version=by_version)
    for path in runs:
        rows += check_serving(read_runs(path), own, by_version=by_version)
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
        int, typer.Option(min=0, max=20, help="Parts of the cross-validation; 0 for none.")
    ] = 3,
    json: Json = False,
) -> None:
    """Fit the calibrated model to one's own measurements: operators, or serving runs."""
    from attacc.report.gpu import accuracy_tables

    check_target(output, "--output", measured)
    operators, runs = _apart(measured)
    if operators and runs:
        raise InputError(
            f"{operators[0].name} holds operators, and {runs[0].name} serving runs",
            hint="fit one after the other",
        )
    if runs:
        rows = _fit_serving(runs, output, framework, kernels)
    else:
        rows = _fit_operators(operators, output, gpu, measured_as, reference, folds)
    print_answer(rows, accuracy_tables, as_json=json)


def _fit_operators(
    paths: list[Path],
    output: Path,
    gpu: str | None,
    measured_as: str | None,
    reference: str | None,
    folds: int,
) -> list[Accuracy]:
    from attacc.documents import names_file
    from attacc.hardware.gpu import GPUS
    from attacc.study.gpu_check import accuracy
    from attacc.study.gpu_document import write_document
    from attacc.study.gpu_fit import fit_calibration, fitted_tables, held_back_rows
    from attacc.system.calibrated import preset_of

    if gpu is None:
        raise InputError("is missing", where="--gpu", hint="name the GPU whose operators they are")
    sheet = GPUS.load_name_or_file(preset_of(gpu), where="--gpu")
    tables = fitted_tables(_read(paths), sheet, measured_as)
    spec, held_back = fit_calibration(
        output.stem,
        sheet,
        tables,
        reference=reference,
        source=_source(paths),
        folds=folds,
    )
    if names_file(gpu):
        # A document names other files relative to its own folder.
        spec = spec.model_copy(update={"gpu": os.path.relpath(gpu, output.parent)})
    write_document(spec, output)
    return accuracy(held_back_rows(held_back, spec), by_version=True)


def _fit_serving(
    paths: list[Path], output: Path, framework: str | None, kernels: str | None
) -> list[Accuracy]:
    from attacc.study.gpu_document import write_document
    from attacc.study.gpu_serving import fit_serving, known_kernels, read_runs, served

    runs = [run for path in paths for run in read_runs(path)]
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
    fitted = fit_serving(output.stem, name, library, served(runs, {name: library}), _source(paths))
    write_document(fitted.spec, output)
    return fitted.rows


def _source(paths: list[Path]) -> str:
    return f"fitted by attacc gpu fit to {', '.join(path.name for path in paths)}"


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
        typer.Option(min=1, metavar="M", help="Predict products of more rows from up to M."),
    ] = None,
    json: Json = False,
) -> None:
    """Predict what no fit has seen: another GPU, or products of more rows."""
    from attacc.report.gpu import extrapolation_table
    from attacc.study.gpu_extrapolate import extrapolate_gpu, extrapolate_rows
    from attacc.system.calibrated import preset_of

    if (rows is None) == (unseen is None) or (unseen is None) != (not seen):
        raise InputError(
            "nothing says what to predict, or too much does",
            where="extrapolate",
            hint="use --unseen with --seen, or --rows",
        )
    tables = _read(measured)
    if rows is not None:
        found = extrapolate_rows(tables, rows)
    else:
        names = [preset_of(name) for name in seen or ()]
        found = extrapolate_gpu(tables, preset_of(unseen or ""), names)
    print_answer(found, extrapolation_table, as_json=json)


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
