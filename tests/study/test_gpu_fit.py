"""Fitting the calibrated model: what was put in comes out."""

from pathlib import Path

import numpy as np
import pytest

from attacc.errors import InputError
from attacc.hardware.gpu import GPUS
from attacc.study import gpu_fit
from attacc.study.gpu_check import accuracy, check
from attacc.study.gpu_fit import fit_calibration, fitted_tables
from attacc.study.measured import read_measurements
from attacc.system.calibrated import CalibratedGpu
from tests.study.gpu_tables import attention_csv, gemm_csv, nccl_csv


@pytest.fixture(autouse=True)
def few_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_fit, "EVALUATIONS", 15)


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

    problem = gpu_fit.Problem([gpu_fit.Unknown(1, 0.1, 10)], np.ones(10), predict, [np.ones(1)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_fit, "least_squares", remember)
        result = gpu_fit.fit(problem, folds=3)
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


def test_without_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback where an optional library is missing."""
    monkeypatch.setitem(__import__("sys").modules, "scipy", None)
    tables = read_measurements(nccl_csv(tmp_path / "nccl.csv"))
    with pytest.raises(InputError, match=r"pip install 'attacc\[gpu\]'"):
        fit_calibration("mine", GPUS.load("h100"), tables, reference=None, source="", folds=0)
