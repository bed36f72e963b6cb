"""Predicting what no fit has seen."""

from pathlib import Path

import numpy as np
import pytest

from attacc.calibration import problems
from attacc.calibration.extrapolate import Shared, extrapolate_gpu, extrapolate_rows
from attacc.calibration.measured import read_measurements
from attacc.calibration.series import MeasuredOperator, Measurements, Messages, SeriesKey
from attacc.errors import InputError
from attacc.gpu.calibrated.kernels import (
    AttentionShapes,
    CalibratedGpu,
    GemmShapes,
    collective_ns,
    decode_ns,
)
from attacc.hardware.gpu import GPUS
from attacc.models.precision import ElementType
from tests.calibration.gpu_tables import gemm_csv

A100, H100, H200 = "a100-sxm-80gb", "h100-sxm-80gb", "h200-sxm-141gb"


@pytest.fixture(autouse=True)
def few_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems, "EVALUATIONS", 15)


def sums(gpu: str, rate: float) -> Measurements:
    """Return times of H100's all-reduce over links of another rate."""
    series = CalibratedGpu.load("h100").collective("all_reduce")
    protocols = [
        protocol.model_copy(update={"bytes_per_s": protocol.bytes_per_s * rate})
        for protocol in series.protocols
    ]
    series = series.model_copy(update={"protocols": tuple(protocols)})
    gpus, size = (x.ravel().astype(float) for x in np.meshgrid([2, 4, 8], 2.0 ** np.arange(9, 30)))
    times = collective_ns(series, gpus, size)
    key = SeriesKey(
        MeasuredOperator.ALL_REDUCE, gpu, "NCCL", "", ElementType.FP16, operation="all_reduce"
    )
    return Measurements(key, Messages(gpus, size), times, np.full(times.size, np.nan))


def test_rates_follow_the_link() -> None:
    """Catches coefficients of several GPUs that share bytes per second rather than the share of
    the link's rate: NVLink 3 has two thirds of NVLink 4's. The nearest GPU is the H100.
    """
    tables = [sums(A100, 600 / 900), sums(H100, 1.0), sums(H200, 1.0)]
    found = {row.shared: row for row in extrapolate_gpu(tables, "h200", ["a100", "h100"])}
    assert set(found) == set(Shared)
    assert found[Shared.ALL].seen == "a100, h100"
    assert found[Shared.NONE].seen == "h100"
    for row in found.values():
        assert row.mape < 0.05
        assert row.points == 63


def test_what_cores_do_follows_their_rate() -> None:
    """Catches work on the cores, or the memory's share, told wrongly from one data sheet to
    another: a GPU of half of H100's bandwidth, predicted from the H100.
    """
    generator = np.random.default_rng(3)
    shapes = AttentionShapes.of(
        2.0 ** generator.integers(0, 8, 300), 32, 8, 128, 2.0 ** generator.integers(4, 13, 300)
    )
    h100 = CalibratedGpu.load("h100")
    series = h100.decode(ElementType.BF16)
    tables = [
        Measurements(
            SeriesKey(MeasuredOperator.DECODE, name, "VLLM", "1", ElementType.BF16),
            shapes,
            decode_ns(series, GPUS.load(gpu), shapes),
            np.full(300, np.nan),
        )
        for name, gpu in ((H100, "h100"), (H200, "h200"))
    ]
    (row,) = extrapolate_gpu(tables, "h200", ["h100"])
    assert (row.operator, row.shared, row.points) == ("decode_attention", Shared.NONE, 300)
    assert row.mape < 0.06


def test_more_rows(tmp_path: Path) -> None:
    """Catches rows above the limit that the fit saw, or below it that are predicted."""
    tables = read_measurements(gemm_csv(tmp_path / "gemm.csv"))
    (row,) = extrapolate_rows(tables, 512)
    assert row.seen == "m <= 512"
    shapes = tables[0].shapes
    assert isinstance(shapes, GemmShapes)
    assert row.points == int((shapes.m > 512).sum())
    assert row.mape < 0.10
    with pytest.raises(InputError, match="have no more than 100000 rows"):
        extrapolate_rows(tables, 100_000)
    with pytest.raises(InputError, match="no products"):
        extrapolate_rows([sums(H100, 1.0)], 512)


def test_nothing_that_is_modelled() -> None:
    """Catches a mean of nothing: prompts of one token, and heads of 512 elements."""
    for operator, dim, length in (
        (MeasuredOperator.PREFILL, 128, 1),
        (MeasuredOperator.DECODE, 512, 64),
    ):
        shapes = AttentionShapes.of(np.ones(20), 32, 8, dim, length)
        tables = [
            Measurements(
                SeriesKey(operator, name, "VLLM", "1", ElementType.BF16),
                shapes,
                np.full(20, 1e4),
                np.full(20, np.nan),
            )
            for name in (H100, H200)
        ]
        with pytest.raises(InputError, match="that is modelled"):
            extrapolate_gpu(tables, "h200", ["h100"])


def test_gpus_that_cannot_be_used() -> None:
    """Catches a GPU that predicts itself, or one that is left out silently."""
    tables = [sums(A100, 1.0), sums(H100, 1.0)]
    with pytest.raises(InputError, match="h100 is to be predicted"):
        extrapolate_gpu(tables, "h100", ["a100", "h100"])
    with pytest.raises(InputError, match=r"h200 was not measured.*measured are a100, h100"):
        extrapolate_gpu(tables, "h200", ["h100"])
