"""``attacc gpu``: the calibrated GPU model, fitted to measurements and checked against them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attacc.cli.options import Json, names, size
from attacc.cli.output import print_answer
from attacc.cli.places import Command

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


@app.command(cls=Command)
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
    from attacc.calibration import check_measured
    from attacc.report.gpu import accuracy_tables, check_figure, write_accuracy_figure

    if figure is not None:
        check_figure(figure, measured)
    found = check_measured(measured, gpu=gpu, serving=serving, by_version=by_version)
    if figure is not None:
        write_accuracy_figure(found.series, figure)
    print_answer(found, accuracy_tables, as_json=json)


@app.command(cls=Command)
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
    from attacc.calibration import fit_measured
    from attacc.report.gpu import accuracy_tables

    found = fit_measured(
        measured,
        output,
        gpu=gpu,
        measured_as=measured_as,
        reference=reference,
        framework=framework,
        kernels=kernels,
        folds=folds,
    )
    print_answer(found, accuracy_tables, as_json=json)


@app.command(cls=Command)
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
    from attacc.calibration import extrapolate_measured
    from attacc.report.gpu import extrapolation_table

    found = extrapolate_measured(measured, unseen=unseen, seen=names(seen, "--seen"), rows=rows)
    print_answer(found, extrapolation_table, as_json=json)
