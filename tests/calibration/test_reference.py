"""The presets against the measured tables that they were fitted to, and what fits cannot see.

The goals are those of the project, for shapes held back: 10 % for products and sums, 12 % for
attention, 15 % for the time per output token, 25 % to the first token. The presets saw these
tables, so that keeping to the goals here is necessary, and not enough: the errors of
cross-validation stand in the documents (tests/gpu/test_coefficients.py), and a fit to a part of
a table is tested below.
"""

from pathlib import Path

import numpy as np
import pytest

from attacc.calibration import fit as gpu_fit
from attacc.calibration import problems
from attacc.calibration.check import ALL, Accuracy, accuracy, check
from attacc.calibration.measured import of_gpu, read_measurements
from attacc.calibration.series import Measurements
from attacc.calibration.serving import check_serving, read_runs
from attacc.gpu.calibrated.kernels import CalibratedGpu, GemmShapes
from attacc.hardware.gpu import GPUS

pytestmark = pytest.mark.reference
TABLES = {
    "gemm": ("gemm.parquet", 0.10),
    "decode_attention": ("decode_attention.parquet", 0.12),
    "prefill_attention": ("prefill_attention.parquet", 0.12),
    "all_reduce": ("nccl.parquet", 0.10),
}
GPUS_OF: dict[str, set[str]] = {
    "": {"a100-sxm-80gb", "h100-sxm-80gb", "h200-sxm-141gb"},
    "_b200": {"b200-sxm-180gb"},
}
"""Ending of the files' names -> GPUs that were measured."""
REFERENCE = ("VLLM", "NCCL")


def tables(reference: Path, name: str, ending: str = "") -> list[Measurements]:
    file = Path(TABLES[name][0])
    return read_measurements(reference / "data" / "silicon" / f"{file.stem}{ending}{file.suffix}")


@pytest.mark.parametrize("ending", GPUS_OF)
@pytest.mark.parametrize("name", TABLES)
def test_presets_on_the_measured_tables(name: str, ending: str, reference: Path) -> None:
    """Catches a preset, an equation or a reader that no longer gives what was measured."""
    measured = tables(reference, name, ending)
    rows = [row for row in accuracy(check(measured)) if row.operator == name]
    whole = [row for row in rows if row.size_class == ALL and row.framework in REFERENCE]
    assert {row.gpu for row in whole} == GPUS_OF[ending]
    for row in whole:
        assert not row.scaled
        assert row.points >= 0.7 * (row.points + row.out_of_range)
        assert row.mape is not None
        assert row.mape <= TABLES[name][1], row
    assert sum(row.points + row.out_of_range for row in rows if row.size_class == ALL) == sum(
        data.count for data in measured if data.key.operation in ("", name)
    )


def test_a_fit_to_some_shapes_predicts_the_others(reference: Path) -> None:
    """Catches a model that memorises: half of A100's products, fitted, predict the other half
    within the goal; those of up to 512 rows predict the larger ones within 15 % (measured: 11 %),
    which are computed by other tiles and wait for other things.
    """
    data = next(
        data
        for data in of_gpu(tables(reference, "gemm"), ["a100-sxm-80gb"])
        if data.key.framework == "VLLM"
    )
    sheet = GPUS.load("a100")
    problem = gpu_fit.gemm_problem(data, sheet, gpu_fit.library_rules(data.key, sheet))
    shapes = data.shapes
    assert isinstance(shapes, GemmShapes)
    order = np.random.default_rng(5).permutation(data.count)
    half = order[: data.count // 2]
    few = half[shapes.m[half] <= 512]
    for seen, hidden, goal in (
        (half, order[data.count // 2 :], 0.10),
        (few, np.flatnonzero(shapes.m > 512), 0.15),
    ):
        values = problems.least_squares(problem, seen[:1500], problem.starts[1:])
        error = np.abs(problem.predict(values, hidden) / data.time_ns[hidden] - 1)
        assert error.mean() <= goal


def test_h100s_coefficients_predict_an_h200(reference: Path) -> None:
    """Catches coefficients that mean nothing on another data sheet: the H200 is an H100 with
    another memory. 10 % for products of the same version of the same library (measured: 8-9 %).
    """
    h200 = of_gpu(tables(reference, "gemm"), ["h200-sxm-141gb"])
    moved = CalibratedGpu.load("h100").on(GPUS.load("h200"))
    rows = [row for row in accuracy(check(h200, moved), by_version=True) if row.size_class == ALL]
    same = [row for row in rows if row.version == "0.24.0"]
    assert len(same) == 2
    for row in same:
        assert row.mape is not None
        assert row.mape <= 0.10


def mean(rows: list[Accuracy], operator: str) -> float:
    mine = [row for row in rows if row.operator == operator and row.mape is not None]
    total = sum(row.points for row in mine)
    return sum(row.points * (row.mape or 0.0) for row in mine) / total


@pytest.mark.untraced  # of whole steps, which have tests of their own
def test_serving_runs(reference: Path) -> None:
    """Catches steps put together wrongly: 15 % per output token and 25 % to the first token, over
    all runs of dense models whose requests fit into the memory.
    """
    runs = read_runs(reference / "data" / "silicon" / "end_to_end.csv")
    rows = [row for row in check_serving(runs) if row.size_class == ALL]
    tokens = [row for row in rows if row.operator == "tpot"]
    assert sum(row.points + row.out_of_range for row in tokens) == len(runs)
    assert sum(row.points for row in tokens) > 500
    assert mean(rows, "tpot") <= 0.15
    assert mean(rows, "ttft") <= 0.25
