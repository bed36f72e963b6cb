"""Questions about files of measurements: fit a model, check a model, extrapolate.

A file holds measured operators or serving runs. A check takes files of both kinds at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from attacc.calibration.check import Accuracy, Checked, accuracy, measured_names
from attacc.calibration.check import check as check_series
from attacc.calibration.document import check_document, write_document
from attacc.calibration.extrapolate import Extrapolation, extrapolate_gpu, extrapolate_rows
from attacc.calibration.fit import fit_calibration, fitted_tables, held_back_rows
from attacc.calibration.measured import measurements, read_measurements
from attacc.calibration.series import MeasuredTable
from attacc.calibration.serving import (
    check_serving,
    fit_serving,
    is_serving_table,
    known_kernels,
    served,
    serving_runs,
)
from attacc.calibration.tables import Table, open_table
from attacc.documents import names_file
from attacc.errors import InputError
from attacc.files import check_target, name_as_text
from attacc.gpu.calibrated.kernels import CalibratedGpu, preset_of
from attacc.gpu.frameworks import SERVING
from attacc.hardware.gpu import GPUS
from attacc.results import Listing


class Accuracies(Listing[Accuracy]):
    """Errors of predictions by operator, GPU, element type, framework and size.

    Args:
        rows: the errors.
        series: the measured operators with their predictions, for a figure. Serving runs have
            none, and a fit returns none.
    """

    __slots__ = ("series",)

    def __init__(self, rows: Iterable[Accuracy], series: Iterable[Checked] = ()) -> None:
        super().__init__(rows)
        self.series = tuple(series)


def check_measured(
    measured: Sequence[str | Path],
    *,
    gpu: str | None = None,
    serving: str | None = None,
    by_version: bool = False,
) -> Accuracies:
    """Predict measured operators or serving runs, and return the errors by size.

    Args:
        measured: Parquet or CSV files.
        gpu: calibration that predicts the operators, a preset or a file; None for the preset of
            each GPU.
        serving: coefficients that predict the runs of a serving framework, a preset or a file;
            None for the framework's preset.
        by_version: whether each version of a framework has errors of its own.

    Raises:
        DocumentError: a file cannot be read, or is malformed.
        InputError: the calibration does not exist, or the measured GPUs have none.
    """
    calibrated = None if gpu is None else CalibratedGpu.load(gpu, where="gpu")
    own = None if serving is None else SERVING.load_name_or_file(serving, where="serving")
    operators, runs = _apart(measured)
    if runs and calibrated is not None:
        raise InputError(
            "serving runs are predicted with the presets of their GPUs",
            where="gpu",
            hint=f"leave it out, or leave out {runs[0].path.name}",
        )
    together = _together(operators)
    series, unusable = together.series, together.unusable
    if calibrated is not None:
        found = [*(data.key.gpu for data in series), *(left.gpu for left in unusable)]
        names = measured_names(found, calibrated)
        series = [data for data in series if data.key.gpu in names]
        unusable = [left for left in unusable if left.gpu in names]
    checked = check_series(series, calibrated)
    rows = accuracy(checked, unusable, by_version=by_version)
    for table in runs:
        rows += check_serving(serving_runs(table), own, by_version=by_version)
    return Accuracies(rows, checked)


def fit_measured(
    measured: Sequence[str | Path],
    output: str | Path,
    *,
    gpu: str | None = None,
    measured_as: str | None = None,
    reference: str | None = None,
    framework: str | None = None,
    kernels: str | None = None,
    folds: int = 3,
) -> Accuracies:
    """Fit the calibrated model to measured operators or to serving runs, and write the document.

    Args:
        measured: Parquet or CSV files, all of operators or all of serving runs.
        output: document to write, in TOML.
        gpu: the GPU whose data sheet the fitted shares refer to: a preset or a file.
        measured_as: the name of the GPU in the files, where they hold several GPUs.
        reference: framework whose operators stand for the GPU.
        framework: framework to fit to its serving runs; None where the files hold only one.
        kernels: framework whose operators stand for those of ``framework``; None for the one that
            the preset of ``framework`` names.
        folds: parts of the cross-validation of operators; 0 for none.

    Returns:
        Errors on rows that were held back.

    Raises:
        DocumentError: a file cannot be read, or is malformed.
        InputError: the document cannot be written, or there are too few measurements.
    """
    path, files = Path(output), [Path(file) for file in measured]
    check_target(path, "output", files)
    check_document(path, "output")
    operators, runs = _apart(measured)
    if operators and runs:
        raise InputError(
            f"{operators[0].path.name} holds operators, and {runs[0].path.name} serving runs",
            where="measured",
            hint="fit one after the other",
        )
    if runs:
        return _fit_serving(runs, path, framework, kernels)
    return _fit_operators(operators, path, gpu, measured_as, reference, folds)


def _fit_operators(
    tables: list[Table],
    output: Path,
    gpu: str | None,
    measured_as: str | None,
    reference: str | None,
    folds: int,
) -> Accuracies:
    if gpu is None:
        raise InputError("is missing", where="gpu", hint="name the GPU whose operators they are")
    sheet = GPUS.load_name_or_file(preset_of(gpu), where="gpu")
    together = _together(tables)
    unusable = together.unusable
    if not together.series:
        reasons = dict.fromkeys(left.reason for left in unusable)
        raise InputError(
            f"no row can be fitted: {'; '.join(reasons)}",
            where=", ".join(table.path.name for table in tables),
        )
    series = fitted_tables(together.series, sheet, measured_as)
    spec, held_back = fit_calibration(
        name_as_text(output.stem),
        sheet,
        series,
        reference=reference,
        source=_source(tables),
        folds=folds,
    )
    if names_file(gpu):
        # A document names other files by paths relative to its own folder.
        spec = spec.model_copy(update={"gpu": os.path.relpath(gpu, output.parent)})
    write_document(spec, output)
    unusable = [left for left in unusable if left.gpu in spec.measured_as]
    return Accuracies(accuracy(held_back_rows(held_back, spec), unusable, by_version=True))


def _fit_serving(
    tables: list[Table], output: Path, framework: str | None, kernels: str | None
) -> Accuracies:
    runs = [run for table in tables for run in serving_runs(table)]
    found = sorted({run.framework for run in runs})
    name = framework or (found[0] if len(found) == 1 else None)
    if name not in found:
        raise InputError(
            f"the runs are of {', '.join(found)}",
            where="framework",
            hint="name one of them",
        )
    library = kernels or known_kernels().get(name)
    if library is None:
        raise InputError(
            f"nothing is known of the operators of {name}",
            where="kernels",
            hint="name a framework whose operators were measured, as VLLM",
        )
    steps = served(runs, {name: library})
    fitted = fit_serving(name_as_text(output.stem), name, library, steps, _source(tables))
    write_document(fitted.spec, output)
    return Accuracies(fitted.rows)


def _source(tables: list[Table]) -> str:
    names = ", ".join(name_as_text(table.path.name) for table in tables)
    return f"fitted by attacc gpu fit to {names}"


def extrapolate_measured(
    measured: Sequence[str | Path],
    *,
    unseen: str | None = None,
    seen: Sequence[str] = (),
    rows: int | None = None,
) -> Listing[Extrapolation]:
    """Predict measurements that no fit has seen: another GPU, or products of more rows.

    Args:
        measured: Parquet or CSV files of operators.
        unseen: GPU to predict from its data sheet.
        seen: GPUs whose measurements are fitted for that prediction.
        rows: most rows of the products that are fitted. Products of more rows are predicted.

    Raises:
        DocumentError: a file cannot be read, or is malformed.
        InputError: it is not clear what to predict, or the predicted shapes were not measured.
    """
    if (rows is None) == (unseen is None) or (unseen is None) != (not seen):
        raise InputError(
            "nothing says what to predict, or too much does",
            where="extrapolate",
            hint="give unseen with seen, or rows",
        )
    tables = [data for path in measured for data in read_measurements(Path(path))]
    if rows is not None:
        return Listing(extrapolate_rows(tables, rows))
    names = [preset_of(name) for name in seen]
    return Listing(extrapolate_gpu(tables, preset_of(unseen or ""), names))


def _apart(paths: Sequence[str | Path]) -> tuple[list[Table], list[Table]]:
    """Read each table once, and return the tables of operators and the tables of serving runs."""
    operators: list[Table] = []
    serving: list[Table] = []
    for table in map(open_table, map(Path, paths)):
        (serving if is_serving_table(table) else operators).append(table)
    return operators, serving


def _together(tables: list[Table]) -> MeasuredTable:
    """Return the measurements of several tables."""
    found = [measurements(table) for table in tables]
    return MeasuredTable(
        [data for table in found for data in table.series],
        [left for table in found for left in table.unusable],
    )
