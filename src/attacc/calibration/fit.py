"""Fitting the coefficients of the calibrated GPU model to measured times.

Every series is fitted by itself. The fit is least squares of the logarithm of predicted over
measured time. Beyond a tenth the loss grows linearly, so that a few shapes on which a library chose
a bad kernel do not bend the model. The error that a document states comes from cross-validation:
shapes are divided into folds, and each fold is predicted by a fit to the other folds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from attacc.calibration.attention_unknowns import (
    DECODE_UNKNOWNS,
    PREFILL_UNKNOWNS,
    SCALAR_SHARE,
    WIDENED_KV_PASSES,
)
from attacc.calibration.check import COLLECTIVES, Checked
from attacc.calibration.fused.registry import KINDS
from attacc.calibration.power import fit_power
from attacc.calibration.problems import (
    FOLDS,
    Indices,
    Problem,
    Unknown,
    around,
    error,
    extent,
    fit,
    record,
)
from attacc.calibration.series import MeasuredOperator, Measurements, Messages, SeriesKey
from attacc.errors import InputError
from attacc.gpu.calibrated.attention_records import (
    AttentionRange,
    DecodeCoefficients,
    DecodeKernel,
    PrefillCoefficients,
    PrefillKernel,
)
from attacc.gpu.calibrated.coefficients import (
    CALIBRATIONS,
    CalibrationSpec,
    CollectiveSeries,
    DecodeSeries,
    GemmCoefficients,
    GemmLibraryName,
    GemmRange,
    GemmSeries,
    HostCoefficients,
    PrefillSeries,
    Protocol,
    QuantiseCoefficients,
)
from attacc.gpu.calibrated.fused.base import FusedSeries
from attacc.gpu.calibrated.kernels import (
    ANY_SIZE,
    HOST_FIELDS,
    LARGEST_DIM,
    QUANTISE_FIELDS,
    SMALLEST_DIM,
    TILES,
    AttentionShapes,
    GemmShapes,
    gemm_times,
    nearly_fastest,
    prefill_kernel_ns,
    wire_share,
)
from attacc.gpu.calibrated.limits import Floats
from attacc.gpu.calibrated.machine import machine
from attacc.gpu.calibrated.records import GB
from attacc.hardware.gpu import GpuSpec
from attacc.models.precision import BlockFormat, ElementType

FEWEST_ROWS: Final = 10
"""Fewest measurements of a series that is fitted."""


GEMM_UNKNOWNS: Final = (
    around(2200.0, 5.0),
    around(500.0),
    Unknown(0.85, 0.5, 1.0),
    around(150.0),
    around(45.0),
    Unknown(0.8, 0.5, 1.0),
    Unknown(0.7, 0.3, 1.0),
    around(1500.0),
    around(45.0, 30.0),
    around(1.3),
    Unknown(0.85, 0.5, 1.0),
    around(2e6),
    Unknown(4.0, 1.5, 9.0),
    Unknown(2.0, 1.0, 6.0),
)
QUANTISE_UNKNOWNS: Final = (
    around(100.0, 100.0),
    Unknown(2000.0, 200.0, 40000.0),
    Unknown(1200.0, 200.0, 5000.0),
    Unknown(1.0, 0.1, 4.0),
)
SINGLE_ROW_UNKNOWNS: Final = (around(10_000.0),)
HOST_UNKNOWNS: Final = (around(160_000.0, 3.0), around(60_000.0, 10.0))


@dataclass(frozen=True, slots=True)
class DecodeRule:
    """The shapes that one kernel of a library takes. Only the kernel's coefficients are fitted."""

    group: tuple[int, int]
    fewest_blocks: int = 0
    grouped: bool = True
    splits_keys: bool = True
    splits_ungrouped: bool = True
    head_dims: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class PrefillRule:
    """What is known of one kernel of prefill attention.

    Attributes:
        packs_groups: whether prefill tiles hold the queries of a group together.
        tile_rows: queries of a prefill tile.
        widens_cache: whether keys and values of an 8-bit cache are first written in 16 bits.
        head_dims: smallest and largest size of a head; None for all that no kernel before takes.
    """

    packs_groups: bool
    tile_rows: int
    widens_cache: bool = False
    head_dims: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class LibraryRules:
    """Facts about a library's kernels that are known before their times are fitted.

    Attributes:
        gemm: kernels of the library's matrix products.
        quantises: whether the measured product includes the conversion of the left matrix.
        decode: kernels of decode attention; the first one that takes a shape computes it.
        prefill: kernels of prefill attention; the first one that takes a head computes it.
        single_token_decodes: whether a prompt of one token runs as decode attention.
        single_row: whether a single row is converted by other kernels.
        waits_for_host: whether the measured product waits for the host to start its kernels.
    """

    gemm: GemmLibraryName
    quantises: bool
    decode: tuple[DecodeRule, ...]
    prefill: tuple[PrefillRule, ...]
    single_token_decodes: bool
    single_row: bool = False
    waits_for_host: bool = False


ANY_GROUP: Final = (1, 2**20)
TRITON_DIMS: Final = (192, 192)
"""Heads that vLLM's attention on Blackwell leaves to a kernel written in Triton."""
BLACKWELL_GEMM: Final[dict[str, GemmLibraryName]] = {
    ElementType.FP8: GemmLibraryName.CUTLASS_PAIRS,
    BlockFormat.FP8_BLOCK: GemmLibraryName.DEEP_GEMM,
    BlockFormat.NVFP4: GemmLibraryName.CUTE,
}
"""Kernels of vLLM's products of converted activations on Blackwell."""


def library_rules(key: SeriesKey, gpu: GpuSpec) -> LibraryRules:
    """Return the known facts about the library of a series.

    Before Hopper, vLLM runs FlashAttention 2, which divides keys only where heads share them. On
    Hopper it runs FlashAttention 3, whose tiles hold a group's queries together. TensorRT-LLM has
    a kernel for groups of up to 32 query heads (XQA) and one for single heads. In 16 bits it takes
    the latter also where groups are too few to fill the GPU. On Blackwell, vLLM runs TensorRT-LLM's
    attention, with tiles of 256 queries, and leaves heads of 192 elements to Triton. All other
    libraries are modelled with cuBLAS, and with kernels like those of FlashAttention 3.

    Args:
        key: key of the series.
        gpu: the GPU that was measured.
    """
    eight_bits = key.dtype.bytes == 1
    hopper = ElementType.FP8 in gpu.peak_flops
    if key.framework == "VLLM" and gpu.fp4_flops is not None:
        return LibraryRules(
            BLACKWELL_GEMM.get(key.dtype, GemmLibraryName.CUBLAS),
            quantises=key.dtype in BLACKWELL_GEMM,
            decode=(DecodeRule(ANY_GROUP, head_dims=TRITON_DIMS), DecodeRule(ANY_GROUP)),
            prefill=(
                PrefillRule(packs_groups=True, tile_rows=16, head_dims=TRITON_DIMS),
                PrefillRule(packs_groups=False, tile_rows=256, widens_cache=eight_bits),
            ),
            single_token_decodes=True,
            single_row=key.dtype is ElementType.FP8,
            waits_for_host=key.dtype is BlockFormat.FP8_BLOCK,
        )
    if key.framework == "TRTLLM":
        return LibraryRules(
            GemmLibraryName.CUBLAS,
            quantises=eight_bits,
            decode=(
                DecodeRule((2, 32), fewest_blocks=0 if eight_bits else 64),
                DecodeRule(ANY_GROUP, grouped=False),
            ),
            prefill=(PrefillRule(packs_groups=False, tile_rows=128),),
            single_token_decodes=False,
        )
    cutlass = key.framework == "VLLM" and eight_bits
    return LibraryRules(
        GemmLibraryName.CUTLASS if cutlass else GemmLibraryName.CUBLAS,
        quantises=cutlass,
        decode=(
            (DecodeRule(ANY_GROUP),)
            if hopper
            else (
                DecodeRule((1, 1), splits_keys=False, splits_ungrouped=False),
                DecodeRule((2, ANY_GROUP[1])),
            )
        ),
        prefill=(PrefillRule(packs_groups=hopper, tile_rows=128 if hopper else 64),),
        single_token_decodes=True,
    )


LAUNCH: Final = 0
STEP: Final = 9
"""Places of coefficients in the vector of a product."""
DECODE_LOAD: Final = 3
DECODE_COMPUTE: Final = 5
"""Places of coefficients in the vector of decode attention."""
TILE_ROWS: Final = 2
KEY: Final = 4
SHARES: Final = 6
KV_PASSES: Final = 11
SUSTAINED_AFTER: Final = 14
"""Places of coefficients in the vector of prefill attention."""


SMALLEST_TENSOR_TILE: Final = 64
"""Rows of a tile below which tensor cores are not filled."""


def start_of(unknowns: Sequence[Unknown], **changed: float) -> Floats:
    """Return the start values, with the launch or the latency of a step changed."""
    values = np.array([unknown.start for unknown in unknowns])
    for name, value in changed.items():
        values[{"launch": LAUNCH, "step": STEP}[name]] = value
    return values


def gemm_unknowns(rules: LibraryRules) -> list[Unknown | None]:
    """Return the unknown of each coefficient of `gemm_vector`.

    It is None for a coefficient that the library has not, which is zero.
    """
    single = SINGLE_ROW_UNKNOWNS if rules.single_row else (None,)
    return [
        *GEMM_UNKNOWNS,
        *((*QUANTISE_UNKNOWNS, *single) if rules.quantises else (None,) * QUANTISE_FIELDS),
        *(HOST_UNKNOWNS if rules.waits_for_host else (None,) * HOST_FIELDS),
    ]


def _with_zeros(values: Floats, wanted: Sequence[Unknown | None]) -> Floats:
    """Return all coefficients of a product from those that were fitted."""
    vector = np.zeros(len(wanted))
    vector[[unknown is not None for unknown in wanted]] = values
    return vector


def gemm_problem(data: Measurements, gpu: GpuSpec, rules: LibraryRules) -> Problem:
    """Return the problem of a series of matrix products."""
    shapes = data.shapes
    assert isinstance(shapes, GemmShapes)  # noqa: S101 - the operator implies it
    wanted = gemm_unknowns(rules)
    unknowns = [unknown for unknown in wanted if unknown is not None]
    at, tiles = machine(gpu, data.key.dtype), TILES[rules.gemm]

    def predict(values: Floats, rows: Indices) -> Floats:
        return gemm_times(shapes.take(rows), at, _with_zeros(values, wanted), tiles)[0]

    launch = float(np.quantile(data.time_ns, 0.01)) * 0.7
    # Kernels before Hopper take several times as long for a step. That is another minimum.
    starts = [start_of(unknowns, launch=launch, step=step) for step in (1.3, 5.0)]
    return Problem(unknowns, data.time_ns, predict, starts)


def _gemm(data: Measurements, gpu: GpuSpec, folds: int) -> tuple[GemmSeries, Floats]:
    rules = library_rules(data.key, gpu)
    fitted = fit(gemm_problem(data, gpu, rules), folds=folds)
    shapes = data.shapes
    assert isinstance(shapes, GemmShapes)  # noqa: S101
    values = _with_zeros(fitted.values, gemm_unknowns(rules))
    count = len(GEMM_UNKNOWNS)
    product, converts, waits = np.split(values, [count, count + QUANTISE_FIELDS])
    series = GemmSeries(
        framework=data.key.framework,
        version=data.key.version,
        dtype=data.key.dtype,
        library=rules.gemm,
        points=data.count,
        error=error(fitted.held_back, data.time_ns),
        range=GemmRange(m=extent(shapes.m), n=extent(shapes.n), k=extent(shapes.k)),
        coefficients=record(GemmCoefficients, product),
        quantise=record(QuantiseCoefficients, converts) if rules.quantises else None,
        host=record(HostCoefficients, waits) if rules.waits_for_host else None,
    )
    return series, fitted.held_back


def modelled_dims(shapes: AttentionShapes) -> NDArray[np.bool_]:
    """Return for each shape whether its heads have a size that the model knows."""
    return (shapes.head_dim >= SMALLEST_DIM) & (shapes.head_dim <= LARGEST_DIM)


def _of_size(head_dims: tuple[int, int] | None, shapes: AttentionShapes) -> NDArray[np.bool_]:
    low, high = head_dims or ANY_SIZE
    return (shapes.head_dim >= low) & (shapes.head_dim <= high)


def taken_by(rules: Sequence[DecodeRule], shapes: AttentionShapes) -> NDArray[np.intp]:
    """Return for each shape the index of the kernel that takes it; -1 where none does."""
    group = shapes.heads / shapes.kv_heads
    blocks = shapes.batch * shapes.kv_heads * np.maximum(1.0, np.floor(shapes.length / 128.0))
    chosen = np.full(group.size, -1)
    for i, rule in reversed(list(enumerate(rules))):
        takes = (group >= rule.group[0]) & (group <= rule.group[1])
        takes &= _of_size(rule.head_dims, shapes)
        chosen[takes & (blocks >= rule.fewest_blocks)] = i
    return chosen


def decode_problem(data: Measurements, gpu: GpuSpec, rule: DecodeRule) -> Problem:
    """Return the problem of one kernel of decode attention, for the shapes that it takes."""
    from attacc.gpu.calibrated.curves_kernel import SPLITS, decode_times

    shapes = data.shapes
    assert isinstance(shapes, AttentionShapes)  # noqa: S101
    at = machine(gpu, data.key.dtype)
    table = np.array(
        [
            (
                *ANY_GROUP,
                0,
                rule.grouped,
                rule.splits_keys,
                rule.splits_keys and rule.splits_ungrouped,
                *ANY_SIZE,
            )
        ],
        dtype=np.float64,
    )

    def predict(values: Floats, rows: Indices) -> Floats:
        some, (times, rounds) = shapes.take(rows), np.empty((2, rows.size))
        decode_times(
            some.batch,
            some.heads,
            some.kv_heads,
            some.head_dim,
            some.length,
            at,
            values[None, :],
            table,
            SPLITS,
            times,
            rounds,
        )
        return times

    launch = float(np.quantile(data.time_ns, 0.01)) * 0.7
    first = start_of(DECODE_UNKNOWNS, launch=launch)
    # Cores may also wait for single keys or for arithmetic instead of bytes: other minima.
    waiting, slow = first.copy(), first.copy()
    waiting[DECODE_LOAD : DECODE_LOAD + 2] = 200.0, 4.0
    slow[DECODE_COMPUTE] = 0.15
    return Problem(DECODE_UNKNOWNS, data.time_ns, predict, [first, waiting, slow])


def _decode(data: Measurements, gpu: GpuSpec, folds: int) -> tuple[DecodeSeries, Floats]:
    rules = library_rules(data.key, gpu).decode
    shapes = data.shapes
    assert isinstance(shapes, AttentionShapes)  # noqa: S101
    chosen = taken_by(rules, shapes)
    held_back = np.full(data.count, np.nan)
    kernels: list[DecodeKernel] = []
    for i, rule in enumerate(rules):
        mine = chosen == i
        if not mine.any():
            continue
        fitted = fit(decode_problem(data.take(mine), gpu, rule), folds=folds)
        held_back[mine] = fitted.held_back
        kernels.append(
            DecodeKernel(
                group=rule.group,
                fewest_blocks=rule.fewest_blocks,
                grouped=rule.grouped,
                splits_keys=rule.splits_keys,
                splits_ungrouped=rule.splits_ungrouped,
                head_dims=rule.head_dims,
                coefficients=record(DecodeCoefficients, fitted.values),
            )
        )
    series = DecodeSeries(
        framework=data.key.framework,
        version=data.key.version,
        dtype=_element(data.key),
        points=data.count,
        error=error(held_back, data.time_ns),
        range=attention_range(shapes),
        kernels=tuple(kernels),
    )
    return series, held_back


def prefill_problem(data: Measurements, gpu: GpuSpec, rule: PrefillRule) -> Problem:
    """Return the problem of one kernel of prefill attention, for the heads that it takes."""
    shapes = data.shapes
    assert isinstance(shapes, AttentionShapes)  # noqa: S101
    at = machine(gpu, data.key.dtype)
    rows_of_tile = float(rule.tile_rows)
    unknowns = list(PREFILL_UNKNOWNS)
    unknowns[TILE_ROWS] = Unknown(rows_of_tile, rows_of_tile * 0.999, rows_of_tile * 1.001)
    if rule.widens_cache:
        unknowns[KV_PASSES] = WIDENED_KV_PASSES
    small = rule.tile_rows < SMALLEST_TENSOR_TILE
    if small:
        unknowns[SHARES : SHARES + 4] = [SCALAR_SHARE] * 4

    def predict(values: Floats, rows: Indices) -> Floats:
        vector = values.copy()
        vector[TILE_ROWS] = rows_of_tile
        return prefill_kernel_ns(vector, at, shapes.take(rows), packs_groups=rule.packs_groups)

    launch = float(np.quantile(data.time_ns, 0.01)) * 0.7
    first = start_of(unknowns, launch=launch)
    # Tiles may also wait for their keys, or for arithmetic at a low rate: other minima.
    waiting, slow = first.copy(), first.copy()
    waiting[KEY : KEY + 2] = 20.0
    slow[SHARES : SHARES + 4] = 0.1 if small else 0.4
    slow[SUSTAINED_AFTER] = 1e5
    return Problem(unknowns, data.time_ns, predict, [first, waiting, slow])


def prefill_taken_by(rules: Sequence[PrefillRule], shapes: AttentionShapes) -> NDArray[np.intp]:
    """Return for each shape the index of the kernel that takes it."""
    chosen = np.full(shapes.batch.size, len(rules) - 1)
    for i, rule in reversed(list(enumerate(rules))):
        chosen[_of_size(rule.head_dims, shapes)] = i
    return chosen


def _prefill(data: Measurements, gpu: GpuSpec, folds: int) -> tuple[PrefillSeries, Floats]:
    rules = library_rules(data.key, gpu)
    shapes = data.shapes
    assert isinstance(shapes, AttentionShapes)  # noqa: S101
    several = (
        shapes.length > 1 if rules.single_token_decodes else np.full(data.count, fill_value=True)
    )
    chosen = prefill_taken_by(rules.prefill, shapes)
    held_back = np.full(data.count, np.nan)
    kernels: list[PrefillKernel] = []
    for i, rule in enumerate(rules.prefill):
        mine = several & (chosen == i)
        if not mine.any():
            continue
        fitted = fit(prefill_problem(data.take(mine), gpu, rule), folds=folds)
        held_back[mine] = fitted.held_back
        values = fitted.values.copy()
        values[TILE_ROWS] = rule.tile_rows
        kernels.append(
            PrefillKernel(
                head_dims=rule.head_dims or ANY_SIZE,
                packs_groups=rule.packs_groups,
                coefficients=record(PrefillCoefficients, values),
            )
        )
    series = PrefillSeries(
        framework=data.key.framework,
        version=data.key.version,
        dtype=_element(data.key),
        packs_groups=kernels[-1].packs_groups,
        single_token_decodes=rules.single_token_decodes,
        points=int(several.sum()),
        error=error(held_back[several], data.time_ns[several]),
        range=attention_range(shapes),
        coefficients=kernels[-1].coefficients,
        others=tuple(kernels[:-1]),
    )
    return series, held_back


def _element(key: SeriesKey) -> ElementType:
    assert isinstance(key.dtype, ElementType)  # noqa: S101 - a cache has no block format
    return key.dtype


NOT_FITTED: Final = (
    "not fitted: heads outside 64 to 256 elements, or prompts of one token, which decode"
)
TOO_FEW: Final = f"not fitted: fewer than {FEWEST_ROWS} rows of this version and element type"
PROTOCOLS: Final = 3
"""Number of NCCL's protocols: low latency, low latency in lines of 128 bytes, and simple."""


def collective_problem(data: Measurements) -> Problem:
    """Return the problem of a collective: its protocols, and shares of the fastest one's rate."""
    shapes = data.shapes
    assert isinstance(shapes, Messages)  # noqa: S101
    counts = np.unique(shapes.gpus)
    on_wire = shapes.message_bytes * wire_share(data.key.operation, shapes.gpus)
    place = np.searchsorted(counts, shapes.gpus)
    unknowns = (
        *(around(4000.0, 4.0), around(1500.0, 6.0), around(40.0, 8.0)),
        *(around(6000.0, 6.0), around(2000.0, 8.0), around(120.0, 6.0)),
        *(around(15000.0, 6.0), around(2500.0, 10.0), around(280.0, 3.0)),
        *(Unknown(1.0, 0.4, 2.5) for _ in counts[1:]),
    )

    def predict(values: Floats, rows: Indices) -> Floats:
        share = np.concatenate([[1.0], values[3 * PROTOCOLS :]])[place[rows]]
        others = shapes.gpus[rows] - 1
        fastest = int(np.argmax(values[2 : 3 * PROTOCOLS : 3]))
        ways = [
            values[3 * p]
            + values[3 * p + 1] * others
            + on_wire[rows] / (values[3 * p + 2] * (share if p == fastest else 1.0))
            for p in range(PROTOCOLS)
        ]
        return nearly_fastest(ways)

    return Problem(unknowns, data.time_ns, predict, [start_of(unknowns)])


def _collective(data: Measurements, folds: int) -> tuple[CollectiveSeries, Floats]:
    shapes = data.shapes
    assert isinstance(shapes, Messages)  # noqa: S101
    fitted = fit(collective_problem(data), folds=folds)
    values = fitted.values
    series = CollectiveSeries(
        operation=data.key.operation,
        gpus=tuple(int(n) for n in np.unique(shapes.gpus)),
        bytes=extent(shapes.message_bytes),
        points=data.count,
        error=error(fitted.held_back, data.time_ns),
        protocols=tuple(
            Protocol(
                start_ns=values[3 * p],
                hop_ns=values[3 * p + 1],
                bytes_per_s=values[3 * p + 2] / GB,
            )
            for p in range(PROTOCOLS)
        ),
        full_share=(1.0, *(float(value) for value in values[3 * PROTOCOLS :])),
    )
    return series, fitted.held_back


def attention_range(shapes: AttentionShapes) -> AttentionRange:
    """Return the range of shapes that a series of attention is stated for."""
    known = shapes.take(modelled_dims(shapes))
    return AttentionRange(
        batch=extent(known.batch),
        heads=extent(known.heads),
        group=extent(known.heads / known.kv_heads),
        length=extent(known.length),
        head_dims=tuple(int(dim) for dim in np.unique(known.head_dim)),
    )


@dataclass(frozen=True, slots=True)
class HeldBack:
    """Predictions of a series by fits that did not see the shape.

    Attributes:
        data: the measurements.
        time_ns: the predictions in nanoseconds; not a number for a shape outside the series' range.
        reason: the reason why there are no predictions, if there are none.
    """

    data: Measurements
    time_ns: Floats
    reason: str = NOT_FITTED


def _of_one_series(tables: Sequence[Measurements]) -> list[list[Measurements]]:
    """Return measurements in the groups that are fitted together, in the order of appearance.

    A collective moves bytes of any type. So messages of all element types are one series.

    Raises:
        InputError: a collective was measured with several versions of its library.
    """
    groups: dict[SeriesKey, list[Measurements]] = {}
    for table in tables:
        key = table.key
        if key.operator is MeasuredOperator.ALL_REDUCE:
            key = replace(key, dtype=ElementType.FP16, version="")
        groups.setdefault(key, []).append(table)
    for key, parts in groups.items():
        versions = sorted({part.key.version or "an unknown one" for part in parts})
        if len(versions) > 1:
            raise InputError(
                f"{key.operation} was measured with the versions {', '.join(versions)}",
                where=key.gpu,
                hint="a calibration holds one: leave the rows of the others out",
            )
    return list(groups.values())


def _joined(parts: Sequence[Measurements]) -> Measurements:
    """Return measurements of one series as one record."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0].shapes
    shapes = type(first)(
        *(
            np.concatenate([getattr(part.shapes, column.name) for part in parts])
            for column in fields(first)
        )
    )
    return Measurements(
        parts[0].key,
        shapes,
        np.concatenate([part.time_ns for part in parts]),
        np.concatenate([part.power_w for part in parts]),
    )


def _fittable(data: Measurements, gpu: GpuSpec) -> int:
    """Return the number of measurements that a series is fitted to."""
    shapes = data.shapes
    if not isinstance(shapes, AttentionShapes):
        return data.count
    known = modelled_dims(shapes)
    if data.key.operator is MeasuredOperator.PREFILL:
        known &= (shapes.length > 1) | (not library_rules(data.key, gpu).single_token_decodes)
    return int(known.sum())


def fit_calibration(
    name: str,
    gpu: GpuSpec,
    tables: Sequence[Measurements],
    *,
    reference: str | None,
    source: str,
    folds: int = FOLDS,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[CalibrationSpec, list[HeldBack]]:
    """Fit every series of a GPU.

    Args:
        name: name of the document.
        gpu: the GPU preset whose data sheet the shares refer to.
        tables: measurements of this GPU.
        reference: the framework that stands for this GPU; by default the one with the most
            measurements.
        source: source of the measurements.
        folds: parts of the cross-validation; 0 for none. Then the stated error is that of the fit.
        tell: called before each fit with the name of the series.

    Raises:
        InputError: no series has `FEWEST_ROWS` measurements, a collective was measured with
            several versions of its library, or no series of the reference was fitted.
    """
    gemm: list[GemmSeries] = []
    decode: list[DecodeSeries] = []
    prefill: list[PrefillSeries] = []
    collectives: list[CollectiveSeries] = []
    fused: dict[str, tuple[FusedSeries, ...]] = {}
    held_back: list[HeldBack] = []
    fitted: list[Measurements] = []
    for parts in _of_one_series(tables):
        whole = _joined(parts)
        key = whole.key
        if _fittable(whole, gpu) < FEWEST_ROWS:
            held_back += [HeldBack(part, np.full(part.count, np.nan), TOO_FEW) for part in parts]
            continue
        tell(f"{key.operator} {key.operation or key.framework} {key.version} {key.dtype}")
        known = np.ones(whole.count, dtype=np.bool_)
        if isinstance(whole.shapes, AttentionShapes):
            known = modelled_dims(whole.shapes)
        data = whole.take(known)
        match key.operator:
            case MeasuredOperator.GEMM:
                series, predicted = _gemm(data, gpu, folds)
                gemm.append(series)
            case MeasuredOperator.DECODE:
                series, predicted = _decode(data, gpu, folds)
                decode.append(series)
            case MeasuredOperator.PREFILL:
                series, predicted = _prefill(data, gpu, folds)
                prefill.append(series)
            case MeasuredOperator.ALL_REDUCE:
                series, predicted = _collective(data, folds)
                collectives.append(series)
            case operator:
                series, predicted = KINDS[operator].fit(data, gpu, folds)
                fused[operator.value] = (*fused.get(operator.value, ()), series)
        everything = np.full(whole.count, np.nan)
        everything[known] = predicted
        fitted += parts
        ends = np.cumsum([part.count for part in parts])[:-1]
        held_back += map(HeldBack, parts, np.split(everything, ends))
    if not fitted:
        most = max((_fittable(table, gpu) for table in tables), default=0)
        raise InputError(
            f"too few measurements of this GPU: the largest series has {most} that can be fitted",
            where=gpu.name,
            hint=f"a series of one version and element type needs {FEWEST_ROWS}",
        )
    frameworks = {data.key.framework for data in fitted}
    if reference is not None and reference not in frameworks:
        raise InputError(
            f"nothing of {reference!r} was fitted",
            where="reference",
            hint=f"fitted is {', '.join(sorted(frameworks))}",
        )
    spec = CalibrationSpec(
        name=name,
        description=f"Fitted to measured operators of {gpu.description or gpu.name}",
        gpu=gpu.name,
        measured_as=tuple(sorted({table.key.gpu for table in tables})),
        reference=reference or _most_measured(fitted),
        gemm=tuple(gemm),
        decode=tuple(decode),
        prefill=tuple(prefill),
        collectives=tuple(collectives),
        power=fit_power(fitted, folds=folds),
        sources={"default": source},
    )
    return spec.model_copy(update=fused), held_back


def _most_measured(tables: Sequence[Measurements]) -> str:
    counts: dict[str, int] = {}
    for table in tables:
        counts[table.key.framework] = counts.get(table.key.framework, 0) + table.count
    return max(counts, key=lambda framework: counts[framework])


def fitted_tables(
    tables: Sequence[Measurements], gpu: GpuSpec, measured_as: str | None
) -> list[Measurements]:
    """Return the measurements of one GPU.

    Args:
        tables: measurements of any GPUs.
        gpu: the GPU preset.
        measured_as: the name of the GPU in the tables. By default its calibration preset states
            the name, or the tables have only one GPU.

    Raises:
        InputError: there are several GPUs, and none of them is recognised.
    """
    names = {gpu.name} if measured_as is None else {measured_as}
    if measured_as is None and gpu.name in CALIBRATIONS.names():
        names |= set(CALIBRATIONS.load(gpu.name).measured_as)
    mine = [table for table in tables if table.key.gpu in names]
    found = sorted({table.key.gpu for table in tables})
    if not mine and measured_as is None and len(found) == 1:
        return list(tables)
    if not mine:
        raise InputError(
            f"measured are {', '.join(found)}",
            where="measured_as" if measured_as else "gpu",
            hint="say which one is meant (measured_as)",
        )
    return mine


def held_back_rows(held_back: Sequence[HeldBack], spec: CalibrationSpec) -> list[Checked]:
    """Return the predictions of cross-validation in the form of a check."""
    return [
        Checked(
            entry.data,
            entry.time_ns,
            tuple("" if known else entry.reason for known in np.isfinite(entry.time_ns)),
            spec.name,
            "the other folds",
            reference=entry.data.key.operator in COLLECTIVES
            or entry.data.key.framework == spec.reference,
            scaled=False,
        )
        for entry in held_back
    ]
