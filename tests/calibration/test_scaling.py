"""How attention's work on the cores scales to another GPU, on made and on measured times."""

from pathlib import Path

import numpy as np
import pytest

from attacc.calibration.measured import read_measurements
from attacc.calibration.scaling import (
    CoreRule,
    Rows,
    Transfer,
    core_factor,
    core_rate,
    faster_cores,
    kv_bytes,
    matched,
    scaled_timer,
    transfers,
)
from attacc.calibration.series import MeasuredOperator, Measurements, SeriesKey
from attacc.errors import InputError
from attacc.gpu.calibrated.kernels import AttentionShapes, CalibratedGpu, DecodeTimer
from attacc.hardware.gpu import GPUS
from attacc.models.precision import ElementType

H100, H200, A100 = "h100-sxm-80gb", "h200-sxm-141gb", "a100-sxm-80gb"
TENSORRT, VERSION = "TRTLLM", "1.3.0rc20"


def shapes() -> AttentionShapes:
    """Return shapes that the memory limits, and shapes that the cores limit."""
    batch, heads, length = (x.ravel() for x in np.meshgrid([16, 256, 2048], [8, 64], [64, 4096]))
    return AttentionShapes.of(batch, heads, 8, 128, length)


def measured(gpu: str, times: np.ndarray, asked: AttentionShapes | None = None) -> Measurements:
    key = SeriesKey(MeasuredOperator.DECODE, gpu, TENSORRT, VERSION, ElementType.BF16)
    return Measurements(key, asked or shapes(), times, np.full(times.size, np.nan))


def timer(rule: CoreRule, source: str = "h100", target: str = "h200") -> DecodeTimer:
    known = CalibratedGpu.load(source)
    series = known.decode(ElementType.BF16, TENSORRT)
    return scaled_timer(series, known.gpu, GPUS.load(target), rule)


def large(found: list[Transfer]) -> Transfer:
    return next(one for one in found if one.rows is Rows.LARGE)


def test_only_a_rule_of_the_memory_changes_the_same_cores() -> None:
    """Catches a rule that takes the number of cores twice, or the memory for the cores: H100 and
    H200 have the same chip.
    """
    sheets = GPUS.load("h100"), GPUS.load("h200")
    factors = {rule: core_factor(rule, *sheets) for rule in CoreRule}
    assert factors[CoreRule.CONSTANT] == factors[CoreRule.CLOCK] == factors[CoreRule.PEAK] == 1
    assert factors[CoreRule.BANDWIDTH] == pytest.approx(4800 / 3352)
    assert factors[CoreRule.ROOT] == pytest.approx(np.sqrt(4800 / 3352))


def test_the_clock_leaves_out_wider_cores() -> None:
    """Catches a clock that takes an H100's core, with twice the operations of a cycle, for one of
    2.6 times the clock: NVIDIA states 1,410 and 1,830 MHz.
    """
    sheets = GPUS.load("a100"), GPUS.load("h100")
    assert core_factor(CoreRule.CLOCK, *sheets) == pytest.approx(1830 / 1410, rel=2e-3)
    assert core_factor(CoreRule.PEAK, *sheets) == pytest.approx(989.4 / 132 / (312 / 108))


def test_a_clock_that_is_not_known_is_an_error() -> None:
    """Catches a GPU without a clock that is scaled as if it had one."""
    with pytest.raises(InputError, match="clock of gb200"):
        core_factor(CoreRule.CLOCK, GPUS.load("b200"), GPUS.load("gb200"))


def test_the_model_takes_the_constant_rule() -> None:
    """Catches a rule that the tables name as the model's and the model does not take."""
    on_h200 = CalibratedGpu.load("h100").on(GPUS.load("h200"))
    ours = DecodeTimer.of(on_h200.decode(ElementType.BF16, TENSORRT), on_h200.gpu)
    assert np.array_equal(ours.ns(shapes()), timer(CoreRule.CONSTANT).ns(shapes()))


def test_with_the_memory_all_work_is_scaled() -> None:
    """Catches work of a core, arithmetic included, that a rule leaves out. On a GPU whose memory
    and cores are both twice as fast, everything but launches and ramps takes half the time.
    """
    series = CalibratedGpu.load("h100").decode(ElementType.BF16, TENSORRT)
    silent = [
        one.model_copy(
            update={
                "coefficients": one.coefficients.model_copy(
                    update=dict.fromkeys(("launch_ns", "ramp_ns", "split_ns", "regroup_ns"), 0.0)
                )
            }
        )
        for one in series.kernels
    ]
    bare = series.model_copy(update={"kernels": tuple(silent)})
    h100 = GPUS.load("h100")
    twice = h100.model_copy(update={"memory_bytes_per_s": 2 * h100.memory_bytes_per_s})
    scaled = scaled_timer(bare, h100, twice, CoreRule.BANDWIDTH).ns(shapes())
    assert scaled == pytest.approx(DecodeTimer.of(bare, h100).ns(shapes()) / 2)


def test_arithmetic_of_a_wider_core_follows_the_rule() -> None:
    """Catches a rule that leaves arithmetic at the peak rate of the other GPU's data sheet: by the
    clock, a B200's core computes as an H100's, at 1.01 times the rate.
    """
    known = CalibratedGpu.load("h100")
    series = known.decode(ElementType.BF16)
    place = list(type(series.kernels[0].coefficients).model_fields).index("compute_share")
    b200 = GPUS.load("b200")
    by_clock = scaled_timer(series, known.gpu, b200, CoreRule.CLOCK).coefficients[0, place]
    sheet = core_factor(CoreRule.PEAK, known.gpu, b200)
    clock = core_factor(CoreRule.CLOCK, known.gpu, b200)
    assert by_clock * sheet / clock == pytest.approx(series.kernels[0].coefficients.compute_share)


@pytest.mark.parametrize("rule", [CoreRule.CONSTANT, CoreRule.ROOT, CoreRule.BANDWIDTH])
def test_times_of_a_rule_are_told_apart(rule: CoreRule) -> None:
    """Catches errors under the name of another rule, and a best factor that is another one."""
    found = large(transfers([measured(H200, timer(rule).ns(shapes()))], "h100", "h200"))
    assert found.points > 3
    assert found.mape[rule] == found.bias[rule] == 0
    others = {other: found.mape[other] for other in CoreRule if core_factor_differs(other, rule)}
    assert min(others.values()) > 0.01
    expected = core_factor(rule, GPUS.load("h100"), GPUS.load("h200"))
    assert found.best_factor == pytest.approx(expected, rel=0.02)


def core_factor_differs(one: CoreRule, other: CoreRule) -> bool:
    sheets = GPUS.load("h100"), GPUS.load("h200")
    return core_factor(one, *sheets) != core_factor(other, *sheets)


def test_shapes_are_classed_by_the_source() -> None:
    """Catches classes that overlap, or leave large shapes out."""
    found = {one.rows: one.points for one in transfers([h200()], "h100", "h200")}
    assert found[Rows.ALL] == shapes().batch.size
    assert found[Rows.LARGE] == found[Rows.CORES] + found[Rows.MEMORY]
    assert found[Rows.LARGE] < found[Rows.ALL]


def h200() -> Measurements:
    return measured(H200, timer(CoreRule.CONSTANT).ns(shapes()))


def test_shapes_are_matched_in_any_order() -> None:
    """Catches times of different shapes that are compared: the second table is in reverse, and
    lacks the first shape.
    """
    times = np.linspace(1e6, 9e6, shapes().batch.size)
    order = np.arange(times.size)[:0:-1]
    other = measured(H200, 0.5 * times[order], shapes().take(order))
    pairs = matched([measured(H100, times), other], "h100", "h200")
    every = shapes()
    big = (kv_bytes(every, ElementType.BF16) >= 1e8) & (every.batch * every.kv_heads >= 132)
    assert pairs.ratio == pytest.approx(np.full(big[1:].sum(), 2.0))
    rate = kv_bytes(every, ElementType.BF16) / times
    assert sorted(pairs.share) == pytest.approx(
        sorted(rate[big & (np.arange(big.size) > 0)] / 3352)
    )


def test_gpus_without_a_common_version_are_an_error() -> None:
    """Catches an empty comparison, and a GPU that no table has."""
    with pytest.raises(InputError, match="share no version"):
        matched([h200()], "h100", "h200")
    with pytest.raises(InputError, match="none of the tables"):
        transfers([h200()], "a100", "h100")
    with pytest.raises(InputError, match="no undivided head"):
        core_rate([h200()], "a100", "VLLM")


def test_the_rate_of_a_core_is_of_one_head_per_core() -> None:
    """Catches a rate of several heads, of shared keys or of busy cores: a core that takes in a head
    of 131,072 keys in 3 ms reads 22 GB/s, and the other shapes must not count.
    """
    asked = AttentionShapes.of([2, 2, 64, 2], [2, 8, 2, 1], [2, 2, 2, 1], 128, [131072] * 3 + [64])
    key = SeriesKey(MeasuredOperator.DECODE, A100, "VLLM", "0.14.0", ElementType.BF16)
    times = np.array([3e6, 1e6, 1e6, 1e6])
    data = Measurements(key, asked, times, np.full(4, np.nan))
    rate = core_rate([data], "a100", "VLLM")
    assert rate.measured == pytest.approx([2 * 131072 * 128 * 2 / 3e-3])
    assert rate.predicted.size == 1


def test_faster_cores_leave_the_memory() -> None:
    """Catches a factor that also speeds up the memory: with endless cores, time is that of the
    memory, and does not fall further.
    """
    plain = timer(CoreRule.CONSTANT)
    endless = faster_cores(plain, 1e6).ns(shapes())
    assert np.all(endless <= plain.ns(shapes()))
    assert endless == pytest.approx(faster_cores(plain, 1e8).ns(shapes()), rel=1e-3)
    series = CalibratedGpu.load("h100").decode(ElementType.BF16, TENSORRT)
    least = kv_bytes(shapes(), ElementType.BF16) / 4800
    assert np.all(endless * max(k.coefficients.read_share for k in series.kernels) >= least)


@pytest.mark.reference
def test_measured_gpus_support_constant_times_of_a_core(reference: Path) -> None:
    """Catches a change of data or coefficients after which another rule would be the better one.

    H100 and H200 have the same cores. Where the cores limit attention on the H100, constant times
    are off by no more than coefficients fitted to the H200, but for 3 points; every rule that lets
    cores grow with the memory is further off.
    """
    tables = read_measurements(reference / "data" / "silicon" / "decode_attention.parquet")
    found = [one for one in transfers(tables, "h100", "h200") if one.rows is Rows.CORES]
    assert {(one.framework, one.dtype) for one in found} == {
        (framework, dtype)
        for framework in ("TRTLLM", "VLLM")
        for dtype in (ElementType.BF16, ElementType.FP8)
    }
    for one in found:
        constant = one.mape[CoreRule.CONSTANT]
        assert constant <= one.own + 0.03
        assert constant < one.mape[CoreRule.ROOT] < one.mape[CoreRule.BANDWIDTH]
        assert 0.9 <= one.best_factor <= 1.1


@pytest.mark.reference
def test_the_factor_of_other_cores_is_no_figure_of_the_memory(reference: Path) -> None:
    """Catches a bandwidth rule that looks right by the accident of one pair: from A100's to the
    H100's and to the H200's cores, which are the same, the best factors are nearly the same, while
    the bandwidth per core grows by 1.35 and by 1.93.
    """
    tables = read_measurements(reference / "data" / "silicon" / "decode_attention.parquet")
    best = [
        one.best_factor
        for target in ("h100", "h200")
        for one in transfers(tables, "a100", target)
        if one.rows is Rows.CORES
    ]
    assert len(best) == 4
    assert min(best) > 1.15
    assert max(best) < 1.45
