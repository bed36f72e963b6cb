"""Fitting the calibrated model: what was put in comes out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attacc.calibration import fit as gpu_fit
from attacc.calibration import problems
from attacc.calibration.check import Checked, accuracy, check
from attacc.calibration.fit import fit_calibration, fitted_tables, held_back_rows
from attacc.calibration.measured import read_measurements
from attacc.calibration.series import MeasuredOperator, Measurements, Messages, SeriesKey
from attacc.errors import InputError
from attacc.gpu.calibrated.coefficients import (
    CalibrationSpec,
    CollectiveSeries,
    Protocol,
)
from attacc.gpu.calibrated.kernels import (
    AttentionShapes,
    CalibratedGpu,
    GemmShapes,
    collective_ns,
    decode_ns,
    matmul_ns,
    prefill_ns,
)
from attacc.hardware.gpu import GPUS
from attacc.models.precision import BlockFormat, ElementType
from tests.calibration.gpu_tables import attention_csv, gemm_csv, nccl_csv


@pytest.fixture(autouse=True)
def few_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems, "EVALUATIONS", 15)


@pytest.mark.parametrize("operator", ["gemm", "decode", "prefill", "all_reduce"])
def test_times_of_the_model_are_fitted_again(operator: str, tmp_path: Path) -> None:
    """Catches coefficients that are stored in another order, unit or record than they are fitted,
    and a start from which the search does not find its way (the model's own times, to 4 %).
    """
    path = tmp_path / "measured.csv"
    match operator:
        case "gemm":
            gemm_csv(path)
        case "all_reduce":
            nccl_csv(path)
        case _:
            attention_csv(path, decode=operator == "decode")
    tables = read_measurements(path)
    spec, held_back = fit_calibration(
        "mine", GPUS.load("h100"), tables, reference=None, source="a test", folds=0
    )
    assert spec.measured_as == ("h100-sxm-80gb",)
    again = accuracy(check(tables, CalibratedGpu.of(spec)))[0]
    assert again.out_of_range == 0
    assert again.mape is not None
    assert again.mape < 0.04
    # The document's figures are those of the fit itself.
    errors = np.abs(held_back[0].time_ns / held_back[0].data.time_ns - 1)
    np.testing.assert_allclose(np.mean(errors), again.mape, rtol=0.05)


@pytest.mark.parametrize("kind", ["fp8", "fp8_block", "nvfp4", "decode", "prefill"])
def test_times_of_blackwell_are_fitted_again(kind: str) -> None:
    """Catches coefficients that only Blackwell has, and that are fitted to the wrong shapes: of a
    single row, of the host, and of heads that another kernel takes.
    """
    b200, generator = CalibratedGpu.load("b200"), np.random.default_rng(2)
    if kind in ("decode", "prefill"):
        shapes = AttentionShapes.of(
            np.floor(2 ** generator.uniform(0, 7, 300)),
            generator.choice([8, 16, 32], 300),
            generator.choice([1, 4, 8], 300),
            generator.choice([64, 128, 192], 300),
            np.floor(2 ** generator.uniform(1, 12, 300)),
        )
        decode, prefill = b200.decode(ElementType.FP8), b200.prefill(ElementType.FP8)
        if kind == "decode":
            times = decode_ns(decode, b200.gpu, shapes)
        else:
            times = prefill_ns(prefill, None, b200.gpu, shapes)
        operator, dtype = MeasuredOperator(f"{kind}_attention"), ElementType.FP8
    else:
        dtype = ElementType.FP8 if kind == "fp8" else BlockFormat(kind)
        operator = MeasuredOperator.GEMM
        n, k = (64 * np.floor(2 ** generator.uniform(0, 8, 400)) for _ in range(2))
        m = np.floor(2 ** generator.uniform(0, 14, 400))
        shapes = GemmShapes.of(m, n, k)
        times = matmul_ns(b200.gemm(dtype), b200.gpu, shapes)
    key = SeriesKey(operator, "b200-sxm-180gb", "VLLM", "0.24.0", dtype)
    table = Measurements(key, shapes, times, np.full(times.size, np.nan))
    spec, _ = fit_calibration(
        "mine", GPUS.load("b200"), [table], reference=None, source="a test", folds=0
    )
    again = accuracy(check([table], CalibratedGpu.of(spec)))[0]
    assert again.out_of_range == 0
    assert again.mape is not None
    assert again.mape < 0.04


def test_a_fitted_collective_is_that_of_its_document(tmp_path: Path) -> None:
    """Catches shares of a rate that the fit gives to the last protocol, and the model to the
    fastest: a document that is off by more than its error says.
    """
    data = read_measurements(nccl_csv(tmp_path / "nccl.csv"))[0]
    assert isinstance(data.shapes, Messages)
    problem = gpu_fit.collective_problem(data)
    rates = (10.0, 320.0, 250.0)
    shares = (1.0, 1.5, 2.0)
    values = np.array(
        [9000, 250, rates[0], 15000, 300, rates[1], 18000, 1500, rates[2], *shares[1:]]
    )
    series = CollectiveSeries(
        operation="all_reduce",
        points=data.count,
        error=0.0,
        gpus=(2, 4, 8),
        bytes=(1, 2**40),
        protocols=tuple(
            Protocol(start_ns=start, hop_ns=hop, bytes_per_s=rate * 1e9)
            for start, hop, rate in values[:9].reshape(3, 3)
        ),
        full_share=shares,
    )
    got = problem.predict(values, np.arange(data.count))
    expected = collective_ns(series, data.shapes.gpus, data.shapes.message_bytes)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_every_row_is_held_back_once(tmp_path: Path) -> None:
    """Catches an error of cross-validation that is the error of a fit which saw the rows."""
    seen: list[set[int]] = []
    predicted: list[int] = []

    def predict(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        predicted.extend(int(row) for row in rows)
        return np.full(rows.size, values[0])

    def remember(problem: object, rows: np.ndarray, starts: object) -> np.ndarray:
        del problem, starts
        seen.append({int(row) for row in rows})
        return np.array([float(len(seen))])

    problem = problems.Problem([problems.Unknown(1, 0.1, 10)], np.ones(10), predict, [np.ones(1)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(problems, "least_squares", remember)
        result = problems.fit(problem, folds=3)
    for row, value in enumerate(result.held_back):
        assert row not in seen[int(value) - 1]
    assert seen[0] == set(range(10))


def test_a_gpu_is_found_by_its_names(tmp_path: Path) -> None:
    """Catches a fit to the rows of another GPU."""
    both = tmp_path / "both.csv"
    one = gemm_csv(tmp_path / "one.csv", rows=3).read_text()
    both.write_text(one + one.splitlines()[1].replace("h100-sxm-80gb", "gb200") + "\n")
    tables, h100 = read_measurements(both), GPUS.load("h100")
    assert [table.key.gpu for table in fitted_tables(tables, h100, None)] == ["h100-sxm-80gb"]
    assert [table.key.gpu for table in fitted_tables(tables, h100, "gb200")] == ["gb200"]
    with pytest.raises(InputError, match="measured are gb200, h100-sxm-80gb"):
        fitted_tables(tables, GPUS.load("a100"), None)


def fitted(tables: Sequence[Measurements]) -> tuple[CalibrationSpec, list[Checked]]:
    spec, held_back = fit_calibration(
        "mine", GPUS.load("h100"), tables, reference=None, source="a test", folds=2
    )
    return spec, held_back_rows(held_back, spec)


def test_too_few_rows_are_told(tmp_path: Path) -> None:
    """Catches a traceback where nothing is left to fit, and a series of two rows that is fitted."""
    few = read_measurements(gemm_csv(tmp_path / "gemm.csv", rows=2))
    with pytest.raises(InputError, match=r"the largest series has 2 .*needs 10"):
        fitted(few)
    prompts = read_measurements(attention_csv(tmp_path / "prefill.csv", decode=False))[0]
    single = AttentionShapes.of(np.ones(12), 8, 8, 128, 1)
    ones = Measurements(prompts.key, single, prompts.time_ns[:12], prompts.power_w[:12])
    with pytest.raises(InputError, match="the largest series has 0"):
        fitted([ones])
    many = read_measurements(nccl_csv(tmp_path / "nccl.csv"))
    spec, checked = fitted([*few, *many])
    assert (len(spec.gemm), len(spec.collectives), spec.reference) == (0, 1, "NCCL")
    reasons = {r.operator: [o.reason for o in r.outside] for r in accuracy(checked)[::5]}
    assert reasons["gemm"] == ["not fitted: fewer than 10 rows of this version and element type"]


def test_one_series_from_several_tables(tmp_path: Path) -> None:
    """Catches two series of one name, of which the second is never taken: int8 messages and those
    in 16 bits are one series of bytes, and a table may be cut in two.
    """
    sums = read_measurements(nccl_csv(tmp_path / "nccl.csv"))[0]
    parts = [sums.take(np.arange(30)), sums.take(np.arange(30, sums.count))]
    eight = replace(parts[1], key=replace(sums.key, dtype=ElementType.INT8))
    spec, checked = fitted([parts[0], eight])
    assert [series.points for series in spec.collectives] == [sums.count]
    assert [entry.data.count for entry in checked] == [30, sums.count - 30]
    whole, _ = fitted([sums])
    assert spec.collectives[0].protocols == whole.collectives[0].protocols
    newer = replace(parts[1], key=replace(sums.key, version="2.29"))
    with pytest.raises(InputError, match=r"with the versions 2\.29, an unknown one"):
        fitted([parts[0], newer])


def test_a_reference_that_was_not_measured(tmp_path: Path) -> None:
    """Catches a document whose reference library has no series."""
    tables = read_measurements(nccl_csv(tmp_path / "nccl.csv"))
    with pytest.raises(InputError, match=r"reference: nothing of 'VLM' was fitted.*NCCL"):
        fit_calibration("x", GPUS.load("h100"), tables, reference="VLM", source="", folds=0)


def test_without_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback where an optional library is missing."""
    monkeypatch.setitem(__import__("sys").modules, "scipy", None)
    tables = read_measurements(nccl_csv(tmp_path / "nccl.csv"))
    with pytest.raises(InputError, match=r"pip install 'attacc\[gpu\]'"):
        fit_calibration("mine", GPUS.load("h100"), tables, reference=None, source="", folds=0)
