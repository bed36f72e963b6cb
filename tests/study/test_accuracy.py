"""Errors of attention on a device: against a computation by hand, and how they behave."""

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacc.errors import DocumentError, InputError, UnknownNameError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.numerics.arithmetic import Arithmetic, Normalization, Order
from attacc.pim.numerics.formats import Format
from attacc.pim.numerics.plan import AttentionPlan
from attacc.study.accuracy import (
    DEFAULT_LENGTHS,
    AccuracyResult,
    AccuracyRow,
    AccuracySpec,
    Data,
    RecordedHeads,
    exact_attention,
    measure_accuracy,
)
from tests.oracle import attention as oracle

FP16 = (Format.FP16,)
GAUSSIAN = (Data.GAUSSIAN,)


def spec(**changes: Any) -> AccuracySpec:
    """Heads of one short length, in fp16."""
    document = {"lengths": (256,), "kv": FP16, "data": GAUSSIAN, "steps": 2} | changes
    return AccuracySpec.model_validate(document)


def rms(result: AccuracyResult, accumulate: Format = Format.FP16) -> float:
    """The computing error of the only row of these sums."""
    (row,) = [row for row in result.rows if row.accumulate is accumulate]
    assert row.computing is not None
    return row.computing.rms


def save(path: Path, length: int = 40, **changes: Any) -> Path:
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "keys": random.standard_normal((3, length, 16)),
        "values": random.standard_normal((3, length, 16)),
        "queries": random.standard_normal((3, 2, length, 16)),
    }
    kept = {name: array for name, array in (arrays | changes).items() if array is not None}
    np.savez(path, **kept)
    return path


def test_against_errors_by_hand(tmp_path: Path) -> None:
    """A reference of rounded where it should be given inputs, a query of another position, or an
    error that is not relative to its own context."""
    path = save(tmp_path / "qkv.npz")
    held = RecordedHeads.load(path)
    result = measure_accuracy(spec(recorded=path, data=(Data.RECORDED,), lengths=(33,)))
    row = result.rows[0]
    assert (row.contexts, row.kv, row.accumulate) == (6, Format.FP16, Format.FP16)
    plan = AttentionPlan.of(
        DRAMS.load("hbm3-5.2"), Placement.BANK, [33], 16, ElementType.FP16, queries=2
    )
    arithmetic = Arithmetic()
    total: list[float] = []
    largest: list[float] = []
    cosines: list[float] = []
    computing: list[float] = []
    rounding: list[float] = []
    spread: list[float] = []
    for head in range(3):
        k, v = held.keys[head, :33].astype(float), held.values[head, :33].astype(float)
        q = held.queries[head, :, 32].astype(float)
        stored = plan.store([k], [v], arithmetic)
        ours = plan.attend(stored, q[np.newaxis], arithmetic).context[0].astype(float)
        exact = oracle.exact(q, k, v, 0.25)
        rounded = [one.astype(np.float16).astype(float) for one in (q, k, v)]
        near = oracle.exact(rounded[0], rounded[1], rounded[2], 0.25)
        for i in range(2):
            mine, given, own = ours[i].tolist(), exact[i].tolist(), near[i].tolist()
            size = math.hypot(*given)
            total.append((math.dist(mine, given) / size) ** 2)
            apart = max(abs(a - b) for a, b in zip(mine, given, strict=True))
            largest.append(apart / (size / 4))
            cosines.append(
                sum(a * b for a, b in zip(mine, given, strict=True)) / (math.hypot(*mine) * size)
            )
            computing.append((math.dist(mine, own) / math.hypot(*own)) ** 2)
            rounding.append((math.dist(own, given) / size) ** 2)
            weights = np.exp(q[i] @ k.T * 0.25)
            spread.append(float(weights.sum() ** 2 / (weights**2).sum()))
    assert row.total is not None
    assert row.computing is not None
    assert row.total.rms == pytest.approx(np.sqrt(np.mean(total)))
    assert row.total.max == pytest.approx(max(largest))
    assert 1 - row.total.cosine == pytest.approx(1 - min(cosines), rel=1e-6)
    assert row.computing.rms == pytest.approx(np.sqrt(np.mean(computing)))
    assert row.rounding.rms == pytest.approx(np.sqrt(np.mean(rounding)))
    assert row.effective_keys == pytest.approx(np.mean(spread))


def test_exact_attention_in_blocks() -> None:
    """A block of keys that is left out, or counted twice."""
    random = np.random.default_rng(0)
    q, k, v = (random.standard_normal((n, 4)) for n in (3, 9000, 9000))
    context, spread = exact_attention(q, k.astype(np.float32), v.astype(np.float32), 0.5)
    np.testing.assert_allclose(context, oracle.exact(q, k, v, 0.5), rtol=1e-5)
    assert spread.shape == (3,)
    same, all_count = exact_attention(q, np.ones((9000, 4)), v, 0.5)
    np.testing.assert_allclose(same, np.tile(v.mean(axis=0), (3, 1)))
    np.testing.assert_allclose(all_count, 9000)


@pytest.mark.untraced  # of many heads: it would take twice as long
def test_fp32_sums_are_better_and_short_sums_too() -> None:
    """An option of the arithmetic or of the split that never reaches the units."""
    long = {"lengths": (4096,), "steps": 4}
    papers = measure_accuracy(spec(**long))
    assert rms(papers, Format.FP32) < 0.5 * rms(papers)
    uncut = measure_accuracy(spec(chunk_keys=8192, sum_keys=8192, lengths=(8192,)))
    cut = measure_accuracy(spec(lengths=(8192,)))
    short = measure_accuracy(spec(sum_keys=32, **long))
    chunks = measure_accuracy(spec(chunk_keys=256, **long))
    assert rms(short) < 0.6 * rms(papers)
    assert rms(chunks) < 0.6 * rms(papers)
    assert rms(uncut) > rms(cut)
    for other in (
        {"tree": Order.SEQUENTIAL},
        {"normalization": Normalization.AFTER},
        {"placements": (Placement.BUFFER,)},
    ):
        assert rms(measure_accuracy(spec(**other))) != rms(measure_accuracy(spec()))


def test_formats_rank_by_their_bits() -> None:
    """Formats mixed up, or the scale of one of 8 bits lost."""
    formats = (Format.FP16, Format.BF16, Format.INT8, Format.E4M3, Format.E5M2)
    result = measure_accuracy(spec(kv=formats, accumulate=(Format.FP32,), steps=4))
    totals = [row.total.rms for row in result.rows if row.total is not None]
    assert totals == sorted(totals)
    assert len(totals) == 5
    roundings = {row.kv: row.rounding.rms for row in result.rows}
    assert all(row.limit_rms == roundings[Format.BF16] for row in result.rows)
    # Three bits less of the significand.
    assert roundings[Format.BF16] == pytest.approx(8 * roundings[Format.FP16], rel=0.3)


def test_rows_and_reach() -> None:
    """A combination that is missing, sums in fp16 where there are none, a reach that skips a length
    which was not good enough."""
    result = measure_accuracy(
        spec(
            lengths=(64, 32, 128),
            data=(Data.GAUSSIAN, Data.PEAKED),
            kv=(Format.FP16, Format.INT8),
            placements=(Placement.BANK, Placement.BUFFER),
        )
    )
    assert len(result.rows) == 3 * 2 * 2 * 3
    assert len(result.reach) == 2 * 2 * 3
    for reach in result.reach:
        own: list[AccuracyRow] = sorted(
            (
                row
                for row in result.rows
                if (row.data, row.placement, row.kv, row.accumulate)
                == (reach.data, reach.placement, reach.kv, reach.accumulate)
            ),
            key=lambda row: row.length,
        )
        assert [row.length for row in own] == [32, 64, 128]
        good = [row.good_enough for row in own]
        up_to = good.index(False) if False in good else 3
        assert reach.good_up_to == (own[up_to - 1].length if up_to else None)
        assert reach.all_good == all(good)
        for row in own:
            assert row.computing is not None
            assert row.good_enough == (row.computing.rms <= row.limit_rms)
    assert not any(reach.good_up_to for reach in result.reach if reach.kv is Format.INT8)


def test_data_are_of_seed_length_and_head_alone() -> None:
    """A row that changes with what else is asked for."""
    alone = measure_accuracy(spec(accumulate=FP16))
    beside = measure_accuracy(
        spec(lengths=(128, 256), data=(Data.PEAKED, Data.GAUSSIAN), kv=(Format.INT8, Format.FP16))
    )
    assert alone.rows[0] in beside.rows
    assert rms(measure_accuracy(spec(seed=1))) != rms(alone)


def test_overflow(tmp_path: Path) -> None:
    """Infinite contexts averaged into an error, or passed over in silence."""
    keys = np.random.default_rng(0).standard_normal((3, 40, 16))
    keys[0, 3] = 6e4
    queries = np.random.default_rng(0).standard_normal((3, 2, 40, 16))
    queries[0] = 9.001
    path = save(tmp_path / "large.npz", keys=keys, queries=queries)
    result = measure_accuracy(spec(recorded=path, data=(Data.RECORDED,), lengths=(40,)))
    for row in result.rows:
        assert (row.overflowed, row.total, row.computing) == (2, None, None)
        assert not row.good_enough
    assert all(reach.worst_share is None for reach in result.reach)


def test_recorded_lengths_and_heads(tmp_path: Path) -> None:
    """Lengths beyond the file, or heads that are left out."""
    data = {"data": (Data.RECORDED,), "lengths": None}
    short = measure_accuracy(spec(recorded=save(tmp_path / "a.npz"), **data))
    assert {row.length for row in short.rows} == {40}
    assert (short.heads, short.steps, short.queries_per_kv_head, short.seed) == (3, 1, 2, None)
    longer = measure_accuracy(spec(recorded=save(tmp_path / "b.npz", 300), **data))
    assert {row.length for row in longer.rows} == set(DEFAULT_LENGTHS[:2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": None}, "holds no array 'values', but keys, queries"),
        ({"keys": np.ones((3, 40))}, "keys are float64 of shape"),
        ({"keys": np.ones((3, 40, 16), dtype=int)}, "keys are int64"),
        ({"keys": np.ones((3, 41, 16))}, "do not belong together"),
        ({"queries": np.ones((3, 2, 40, 8))}, "do not belong together"),
        ({"values": np.full((3, 40, 16), np.nan)}, r"values hold nan at \(0, 0, 0\)"),
    ],
)
def test_bad_recorded_data(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Arrays that would fail within NumPy, or be broadcast."""
    with pytest.raises(DocumentError, match=message):
        RecordedHeads.load(save(tmp_path / "bad.npz", **changes))


def test_files_that_are_none(tmp_path: Path) -> None:
    """A traceback of NumPy or zipfile, or a file that runs code when it is read."""
    text = tmp_path / "text.npz"
    text.write_text("no archive")
    single = tmp_path / "single.npz"
    with single.open("wb") as file:
        np.save(file, np.ones(3))
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, keys=np.array([{}], dtype=object))
    damaged = tmp_path / "damaged.npz"
    np.savez_compressed(damaged, keys=np.ones(1000))
    data = bytearray(damaged.read_bytes())
    data[60:80] = bytes(20)
    damaged.write_bytes(data)
    paths = [text, single, pickled, damaged, tmp_path / "absent.npz"]
    # Sizes for which NumPy raises OverflowError, warns, raises MemoryError, TypeError.
    for i, size in enumerate((10**30, 2**63, 2**45, -1, True, None)):
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': (1, {size}, 2)}}\n"
        paths.append(tmp_path / f"promised{i}.npz")
        with zipfile.ZipFile(paths[-1], "w") as archive:
            start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
            archive.writestr("keys.npy", start + header.encode() + bytes(8))
    for path in paths:
        with pytest.raises(DocumentError, match="cannot be read"):
            RecordedHeads.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": (2**24,)}, "exceeds a channel, which holds a head of"),
        ({"sum_keys": 100}, "do not fill whole accesses of 16"),
        ({"model": "gpt5"}, "unknown model preset 'gpt5'"),
        ({"device": "hbm3-5.2-asplos24"}, "models no latencies"),
    ],
)
def test_what_cannot_be_measured(changes: dict[str, Any], message: str) -> None:
    """A length that would take all memory before it is refused, or a wrong name."""
    with pytest.raises(InputError, match=message):
        measure_accuracy(spec(**changes))


def test_file_against_model_and_length(tmp_path: Path) -> None:
    """A model's name beside data of another model, and heads or keys that a file does not have."""
    path = save(tmp_path / "qkv.npz")
    data = {"recorded": path, "data": (Data.RECORDED,)}
    for changes, message in (
        ({"model": "gpt3-175b", "lengths": (40,)}, "leave the model out"),
        ({"lengths": (41,)}, "at most 40"),
        ({"heads": 4, "lengths": (40,)}, "the file has 3"),
    ):
        with pytest.raises(InputError, match=message):
            measure_accuracy(spec(**data, **changes))
    ones = np.ones((3, 40, 16))
    exact = save(tmp_path / "bf16.npz", keys=ones, values=ones, queries=np.ones((3, 2, 40, 16)))
    with pytest.raises(InputError, match="rounded to bf16 already"):
        measure_accuracy(spec(recorded=exact, data=(Data.RECORDED,), lengths=(40,)))
    zero = save(tmp_path / "zero.npz", values=np.zeros((3, 40, 16)))
    with pytest.raises(InputError, match="exact context is zero"):
        measure_accuracy(spec(recorded=zero, data=(Data.RECORDED,), lengths=(40,)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv": (Format.FP32,)}, "are not stored"),
        ({"kv": (Format.INT8,), "accumulate": FP16}, "add fp16 to kv"),
        ({"accumulate": (Format.BF16,)}, "choose fp16 or fp32"),
        ({"lengths": (8, 8)}, "names 8 twice"),
        ({"data": (Data.RECORDED,)}, "need a file"),
        ({"lengths": ()}, "at least 1 item"),
    ],
)
def test_bad_specifications(changes: dict[str, Any], message: str) -> None:
    """Combinations that mean nothing."""
    with pytest.raises(ValueError, match=message):
        spec(**changes)


def test_unknown_format_names_the_nearest() -> None:
    """A proposal that shows Python's own notation of a member."""
    with pytest.raises(UnknownNameError, match="did you mean 'fp16'") as error:
        Format.named("fp17", where="--kv")
    assert "<" not in str(error.value)
