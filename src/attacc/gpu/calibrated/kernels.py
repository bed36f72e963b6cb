"""The calibrated GPU model: times of any number of operators at once, from their shapes.

The model counts tiles and rounds over cores, traffic of memory and second-level cache, and
launches. Its coefficients are those of a `CalibrationSpec` (docs/model/gpu-model.md). No measured
time is looked up: a shape that was not measured is computed like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attacc.errors import InputError
from attacc.gpu.calibrated.attention_records import AttentionRange
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
    QuantiseCoefficients,
)
from attacc.gpu.calibrated.limits import Flags, Floats, Limits, limit
from attacc.gpu.calibrated.machine import machine
from attacc.gpu.calibrated.records import GB, SeriesType
from attacc.hardware.gpu import GPUS, GpuSpec
from attacc.models.precision import ElementType

SIDES: Final = (16, 32, 64, 128, 256)
LARGEST_TILE: Final = 32768
UNBOUNDED: Final = float(2**40)


def _needed_above(side: int) -> float:
    """Return the rows up to which a tile of this side is larger than needed.

    With no more rows, the next smaller tile computes all of them.
    """
    return 0.0 if side == SIDES[0] else side / 2


CUBLAS_TILES: Final = np.array(
    [
        (_needed_above(tm), UNBOUNDED, _needed_above(tn), UNBOUNDED, tm, tn, 1, 64)
        for tm in SIDES
        for tn in SIDES
        if tm * tn <= LARGEST_TILE
    ],
    dtype=np.float64,
)
"""Kernels of cuBLAS. Columns: rows above and up to, columns above and up to, rows and columns of a
tile, tiles of a cluster, most splits."""
CUTLASS_TILES: Final = np.array(
    [
        (0, 16, 0, UNBOUNDED, 16, 64, 1, 1),
        (16, 64, 0, 1280, 16, 64, 1, 1),
        (16, 64, 1280, UNBOUNDED, 64, 64, 1, 1),
        (64, 128, 0, UNBOUNDED, 64, 128, 2, 1),
        (128, UNBOUNDED, 0, UNBOUNDED, 128, 128, 2, 1),
    ],
    dtype=np.float64,
)
"""Kernels of vLLM's 8-bit products on Hopper, with the columns of `CUBLAS_TILES`. The tile follows
from the rows and columns, in clusters of two. The limits follow the library's published dispatch by
rows, and are the sizes at which measured times step."""
PAIRS_TILES: Final = np.array(
    [
        (0, 16, 0, UNBOUNDED, 32, 64, 1, 1),
        (16, 64, 0, UNBOUNDED, 64, 64, 1, 1),
        (64, 256, 0, UNBOUNDED, 64, 128, 2, 1),
        (256, UNBOUNDED, 0, UNBOUNDED, 128, 128, 2, 1),
    ],
    dtype=np.float64,
)
"""Kernels of vLLM's 8-bit products on Blackwell, as of the library's published dispatch by rows
(sm100_fp8_config). A tile is the half that one core of a pair computes. Up to 64 rows, the kernel
takes the weights for the left matrix."""


def _undivided(heights: Sequence[int], widths: Sequence[int]) -> Floats:
    """Return kernels of any tile of these sides, which never divide the inner dimension."""
    return np.array(
        [
            (
                0.0 if tm == min(heights) else tm / 2,
                UNBOUNDED,
                0.0 if tn == min(widths) else tn / 2,
                UNBOUNDED,
                tm,
                tn,
                1,
                1,
            )
            for tm in heights
            for tn in widths
            if tm * tn <= LARGEST_TILE
        ],
        dtype=np.float64,
    )


TILES: Final = {
    GemmLibraryName.CUBLAS: CUBLAS_TILES,
    GemmLibraryName.CUTLASS: CUTLASS_TILES,
    GemmLibraryName.CUTLASS_PAIRS: PAIRS_TILES,
    GemmLibraryName.DEEP_GEMM: _undivided((64, 128), (32, 64, 128)),
    GemmLibraryName.CUTE: _undivided((128, 256), (64, 128, 256)),
}

SMALLEST_DIM: Final = 64
LARGEST_DIM: Final = 256


@dataclass(frozen=True, slots=True)
class GemmShapes:
    """Products of an (m, k) with a (k, n) matrix, as arrays with one element for each product.

    Attributes:
        m: rows.
        n: columns.
        k: inner dimension.
    """

    m: Floats
    n: Floats
    k: Floats

    @classmethod
    def of(cls, m: ArrayLike, n: ArrayLike, k: ArrayLike) -> GemmShapes:
        """Return shapes from sizes that broadcast to one length.

        Raises:
            InputError: a size is below 1.
        """
        return cls(*_sizes(m=m, n=n, k=k))

    def take(self, chosen: NDArray[np.integer] | Flags) -> GemmShapes:
        """Return the shapes at some places."""
        return GemmShapes(self.m[chosen], self.n[chosen], self.k[chosen])

    @property
    def flops(self) -> Floats:
        """Operations; a multiply and an add count as two."""
        return 2.0 * self.m * self.n * self.k


@dataclass(frozen=True, slots=True)
class AttentionShapes:
    """Attention of one layer on one GPU, as arrays with one element for each shape.

    Attributes:
        batch: requests.
        heads: query heads.
        kv_heads: key/value heads.
        head_dim: elements of a head.
        length: keys of every request (decode), or new tokens of every prompt (prefill).
        past: in prefill, keys before the new tokens; None if there are none.
        within: in prefill, the mean over the new tokens of the length of their own chunk; None
            where all chunks are equal.
    """

    batch: Floats
    heads: Floats
    kv_heads: Floats
    head_dim: Floats
    length: Floats
    past: Floats | None = None
    within: Floats | None = None

    @classmethod
    def of(
        cls,
        batch: ArrayLike,
        heads: ArrayLike,
        kv_heads: ArrayLike,
        head_dim: ArrayLike,
        length: ArrayLike,
    ) -> AttentionShapes:
        """Return shapes from sizes that broadcast to one length.

        Raises:
            InputError: a size is below 1.
        """
        return cls(
            *_sizes(batch=batch, heads=heads, kv_heads=kv_heads, head_dim=head_dim, length=length)
        )

    def take(self, chosen: NDArray[np.integer] | Flags) -> AttentionShapes:
        """Return the shapes at some places."""
        return AttentionShapes(
            self.batch[chosen],
            self.heads[chosen],
            self.kv_heads[chosen],
            self.head_dim[chosen],
            self.length[chosen],
            None if self.past is None else self.past[chosen],
            None if self.within is None else self.within[chosen],
        )

    @property
    def earlier(self) -> Floats:
        """Keys before the new tokens of a prefill."""
        return np.zeros_like(self.length) if self.past is None else self.past

    @property
    def own(self) -> Floats:
        """Mean over the new tokens of a prefill of the length of their own chunk."""
        return self.length if self.within is None else self.within


def _sizes(**sizes: ArrayLike) -> list[Floats]:
    arrays = np.broadcast_arrays(*(np.atleast_1d(value) for value in sizes.values()))
    flat = [np.ascontiguousarray(array, dtype=np.float64).ravel() for array in arrays]
    for name, array in zip(sizes, flat, strict=True):
        if array.size and not array.min() >= 1:
            raise InputError(
                f"{array.min():g} is no size", where=name, hint="use whole numbers from 1"
            )
    return flat


QUANTISE_FIELDS: Final = len(QuantiseCoefficients.model_fields)
HOST_FIELDS: Final = len(HostCoefficients.model_fields)


def gemm_vector(
    coefficients: GemmCoefficients,
    quantise: QuantiseCoefficients | None,
    host: HostCoefficients | None = None,
) -> Floats:
    """Return the coefficients of a product, of the conversion before it and of the host's work.

    There are zeros for what is not there.
    """
    return np.concatenate(
        [
            coefficients.vector(),
            np.zeros(QUANTISE_FIELDS) if quantise is None else quantise.vector(),
            np.zeros(HOST_FIELDS) if host is None else host.vector(),
        ]
    )


def gemm_times(
    shapes: GemmShapes, at: Floats, vector: Floats, tiles: Floats
) -> tuple[Floats, NDArray[np.int8]]:
    """Return the time of each product in nanoseconds, and the bound of each product.

    Args:
        shapes: the products.
        at: the GPU, as `machine` returns it.
        vector: the coefficients, as `gemm_vector` returns them.
        tiles: kernels of the library, in the form of `CUBLAS_TILES`.
    """
    # Imported inside functions because it loads Numba.
    from attacc.gpu.calibrated.curves_kernel import SPLITS, matmul_times

    times, waits = np.empty(shapes.m.size), np.empty(shapes.m.size, dtype=np.int8)
    status = matmul_times(shapes.m, shapes.n, shapes.k, at, vector, tiles, SPLITS, times, waits)
    if status:
        i = status - 1
        raise InputError(
            f"no kernel for {shapes.m[i]:g} x {shapes.k[i]:g} times {shapes.k[i]:g} x "
            f"{shapes.n[i]:g}",
            where="library",
        )
    return times, waits


def matmul_ns(series: GemmSeries, gpu: GpuSpec, shapes: GemmShapes) -> Floats:
    """Return the times of matrix products in nanoseconds.

    Args:
        series: series of the kernels.
        gpu: the GPU.
        shapes: the products.
    """
    vector = gemm_vector(series.coefficients, series.quantise, series.host)
    return gemm_times(shapes, machine(gpu, series.dtype), vector, TILES[series.library])[0]


ANY_SIZE: Final = (0, 2**20)
"""Smallest and largest size of a head, of kernels that take all."""


def decode_kernel_table(series: DecodeSeries) -> Floats:
    """Return the shapes that each kernel takes, in the form that `decode_times` needs."""
    return np.array(
        [
            (
                *kernel.group,
                kernel.fewest_blocks,
                kernel.grouped,
                kernel.splits_keys,
                kernel.splits_ungrouped and kernel.splits_keys,
                *(kernel.head_dims or ANY_SIZE),
            )
            for kernel in series.kernels
        ],
        dtype=np.float64,
    )


@dataclass(frozen=True, slots=True)
class DecodeTimer:
    """The decode attention of one library on one GPU, ready to time shapes.

    Attributes:
        framework: framework of the kernels, for messages.
        machine: the GPU, as `machine` returns it.
        coefficients: (kernels, coefficients) coefficients of each kernel.
        table: the shapes that each kernel takes, as `decode_kernel_table` returns them.
    """

    framework: str
    machine: Floats
    coefficients: Floats
    table: Floats

    @classmethod
    def of(
        cls, series: DecodeSeries, gpu: GpuSpec, cache: ElementType | None = None
    ) -> DecodeTimer:
        """Return a timer of the kernels of a series on a GPU.

        Args:
            series: the kernels.
            gpu: the GPU.
            cache: element type of the stored keys and values; by default that of the series.
                Another type changes the bytes that are read, and not the type that computes.
        """
        return cls(
            series.framework,
            machine(gpu, series.dtype if cache is None else cache, series.dtype),
            np.array([kernel.coefficients.vector() for kernel in series.kernels]),
            decode_kernel_table(series),
        )

    def ns(self, shapes: AttentionShapes) -> Floats:
        """Return the times of decode attention in nanoseconds.

        Raises:
            InputError: no kernel takes one of the shapes.
        """
        return self.timed(shapes)[0]

    def timed(self, shapes: AttentionShapes) -> tuple[Floats, Floats]:
        """Return times in nanoseconds, and the number of rounds in which each core works.

        Raises:
            InputError: no kernel takes one of the shapes.
        """
        from attacc.gpu.calibrated.curves_kernel import SPLITS, decode_times

        times, rounds = np.empty((2, shapes.batch.size))
        status = decode_times(
            shapes.batch,
            shapes.heads,
            shapes.kv_heads,
            shapes.head_dim,
            shapes.length,
            self.machine,
            self.coefficients,
            self.table,
            SPLITS,
            times,
            rounds,
        )
        if status:
            i = status - 1
            raise InputError(
                f"no kernel of {self.framework} takes {shapes.heads[i]:g} heads over "
                f"{shapes.kv_heads[i]:g} key/value heads",
                where="heads",
            )
        return times, rounds


def decode_ns(series: DecodeSeries, gpu: GpuSpec, shapes: AttentionShapes) -> Floats:
    """Return the times of decode attention in nanoseconds.

    Args:
        series: series of the kernels.
        gpu: the GPU.
        shapes: the attention.

    Raises:
        InputError: no kernel of the series takes one of the shapes.
    """
    return DecodeTimer.of(series, gpu).ns(shapes)


def prefill_kernel_ns(
    vector: Floats, at: Floats, shapes: AttentionShapes, *, packs_groups: bool
) -> Floats:
    """Return the times of one kernel of prefill attention in nanoseconds.

    Args:
        vector: the coefficients, in the order of `PrefillCoefficients`.
        at: the GPU, as `machine` returns it.
        shapes: the attention, with heads of 64 to 256 elements.
        packs_groups: whether the queries of a group fill the rows of a tile together.
    """
    from attacc.gpu.calibrated.curves_kernel import prefill_times

    times = np.empty(shapes.batch.size)
    prefill_times(
        shapes.batch,
        shapes.heads,
        shapes.kv_heads,
        shapes.head_dim,
        shapes.length,
        shapes.earlier,
        shapes.own,
        at,
        vector,
        float(packs_groups),
        times,
    )
    return times


def prefill_ns(
    series: PrefillSeries, decode: DecodeSeries | None, gpu: GpuSpec, shapes: AttentionShapes
) -> Floats:
    """Return the times of causal prefill attention in nanoseconds.

    Args:
        series: series of the kernels.
        decode: the decode kernels of the same library, for prompts of one token.
        gpu: the GPU.
        shapes: the attention, with heads of 64 to 256 elements.

    Raises:
        InputError: a head has fewer or more elements.
    """
    dims = shapes.head_dim
    if dims.size and not (dims.min() >= SMALLEST_DIM and dims.max() <= LARGEST_DIM):
        worst = dims.min() if dims.min() < SMALLEST_DIM else dims.max()
        raise InputError(
            f"heads of {worst:g} elements are outside the model",
            where="head_dim",
            hint=f"use {SMALLEST_DIM} to {LARGEST_DIM}",
        )
    at = machine(gpu, series.dtype)
    times = prefill_kernel_ns(
        series.coefficients.vector(), at, shapes, packs_groups=series.packs_groups
    )
    for kernel in series.others:
        takes = (dims >= kernel.head_dims[0]) & (dims <= kernel.head_dims[1])
        times[takes] = prefill_kernel_ns(
            kernel.coefficients.vector(), at, shapes.take(takes), packs_groups=kernel.packs_groups
        )
    single = shapes.length == 1
    if series.single_token_decodes and decode is not None and single.any():
        alone = shapes.take(single)
        keys = alone.earlier + alone.own
        times[single] = decode_ns(decode, gpu, replace(alone, length=keys))
    return times


def wire_share(operation: str, gpus: Floats) -> Floats:
    """Return the bytes that one GPU sends per byte of the message, in an operation's ring.

    The data of a sum go round the ring twice: once to be added, and once to be handed out. The data
    of all other operations go round once.

    Args:
        operation: the operation, as in "all_reduce".
        gpus: number of GPUs that take part.
    """
    return (2.0 if operation == "all_reduce" else 1.0) * (gpus - 1) / gpus


def collective_ns(series: CollectiveSeries, gpus: ArrayLike, message_bytes: ArrayLike) -> Floats:
    """Return the times of a collective in nanoseconds.

    Args:
        series: series of the operation.
        gpus: number of GPUs that take part.
        message_bytes: bytes of the whole message, which every GPU holds in the end.

    Raises:
        InputError: the series is not stated for a number of GPUs.
    """
    count, size = _sizes(gpus=gpus, message_bytes=message_bytes)
    known = np.array(series.gpus, dtype=np.float64)
    unknown = ~np.isin(count, known)
    if unknown.any():
        raise InputError(
            f"nothing is known of {series.operation} over {count[unknown][0]:g} GPUs",
            where="gpus",
            hint=f"use one of {', '.join(str(n) for n in series.gpus)}",
        )
    share = np.array(series.full_share)[np.searchsorted(known, count)]
    on_wire = size * wire_share(series.operation, count)
    fastest = max(series.protocols, key=lambda protocol: protocol.bytes_per_s)
    ways = [
        protocol.start_ns
        + protocol.hop_ns * (count - 1)
        + on_wire / (protocol.bytes_per_s * GB * (share if protocol is fastest else 1.0))
        for protocol in series.protocols
    ]
    return nearly_fastest(ways)


SWITCH: Final = 12.0
"""How sharply a library changes from one protocol to the next."""


def nearly_fastest(ways: Sequence[Floats]) -> Floats:
    """Return the time of the fastest way, a little less where two ways are almost equally fast.

    This is a minimum without an edge. Near a change of protocols NCCL takes a mixture of their
    channels. A fit can also adjust a protocol that is never quite the fastest.
    """
    return np.sum(np.array(ways) ** -SWITCH, axis=0) ** (-1 / SWITCH)


def gemm_limits(limits: GemmRange, shapes: GemmShapes) -> Limits:
    """Return for each size which products are within the range of a series."""
    return [
        limit("m", shapes.m, limits.m),
        limit("n", shapes.n, limits.n),
        limit("k", shapes.k, limits.k),
    ]


def attention_limits(limits: AttentionRange, shapes: AttentionShapes) -> Limits:
    """Return for each size which attention is within the range of a series."""
    group = shapes.heads / shapes.kv_heads
    dims = np.isin(shapes.head_dim, np.array(limits.head_dims, dtype=np.float64))
    return [
        (f"head_dim is one of {', '.join(str(dim) for dim in limits.head_dims)}", dims),
        ("heads are a multiple of key/value heads", group == np.floor(group)),
        limit("batch", shapes.batch, limits.batch),
        limit("heads", shapes.heads, limits.heads),
        limit("heads per key/value head", group, limits.group),
        limit("length", shapes.length, limits.length),
    ]


def collective_limits(series: CollectiveSeries, gpus: Floats, message_bytes: Floats) -> Limits:
    """Return for each size which messages are within the range of a series."""
    counts = np.isin(gpus, np.array(series.gpus, dtype=np.float64))
    return [
        (f"GPUs are one of {', '.join(str(count) for count in series.gpus)}", counts),
        limit("bytes", message_bytes, series.bytes),
    ]


def preset_of(name: str) -> str:
    """Return the calibration preset of a GPU by the GPU's name in tables of measurements.

    Args:
        name: any name, in small or capital letters. A name that no preset states is returned
            without change.
    """
    lower = name.lower()
    for preset in CALIBRATIONS.names():
        if lower in (preset, *CALIBRATIONS.load(preset).measured_as):
            return preset
    return name


class _Series(Protocol):
    @property
    def framework(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def dtype(self) -> SeriesType: ...


S = TypeVar("S", bound=_Series)


@dataclass(frozen=True, slots=True)
class CalibratedGpu:
    """A GPU with its calibration.

    Attributes:
        gpu: data sheet of the GPU.
        calibration: coefficients of the GPU, or of another GPU whose coefficients are scaled.
        scaled_from: name of the calibration that is scaled; None if the coefficients are the GPU's
            own.
    """

    gpu: GpuSpec
    calibration: CalibrationSpec
    scaled_from: str | None

    @classmethod
    def load(cls, name: str, *, where: str | None = None) -> CalibratedGpu:
        """Return a calibration preset, or a document, with its GPU.

        Args:
            name: name of the preset, name of its GPU in tables of measurements, or a path.
            where: source of the name, for messages.

        Raises:
            UnknownNameError: no calibration has this name.
        """
        return cls.of(CALIBRATIONS.load_name_or_file(preset_of(name), where=where))

    @classmethod
    def of(cls, calibration: CalibrationSpec) -> CalibratedGpu:
        """Return a calibration with its GPU, and with the coefficients that it has or scales."""
        gpu = GPUS.load_name_or_file(calibration.gpu, where=calibration.name)
        if calibration.scaled_from is None:
            return cls(gpu, calibration, None)
        base = CALIBRATIONS.load(calibration.scaled_from, where=calibration.name)
        return cls(gpu, base, calibration.scaled_from)

    def on(self, gpu: GpuSpec) -> CalibratedGpu:
        """Return the same coefficients on another data sheet.

        Shares are then of the other data sheet; times and rates of one core stay. Measured GPUs
        with the same cores and another memory support that (`attacc.calibration.scaling`).
        """
        return replace(self, gpu=gpu, scaled_from=self.calibration.name)

    def gemm(
        self, dtype: SeriesType, framework: str | None = None, version: str | None = None
    ) -> GemmSeries:
        """Return the series of matrix products of a library, by default of the reference.

        Raises:
            InputError: no such series was measured.
        """
        return self._series("matrix products", self.calibration.gemm, dtype, framework, version)

    def decode(
        self, dtype: SeriesType, framework: str | None = None, version: str | None = None
    ) -> DecodeSeries:
        """Return the series of decode attention of a library, by default of the reference."""
        return self._series("decode attention", self.calibration.decode, dtype, framework, version)

    def prefill(
        self, dtype: SeriesType, framework: str | None = None, version: str | None = None
    ) -> PrefillSeries:
        """Return the series of prefill attention of a library, by default of the reference."""
        return self._series(
            "prefill attention", self.calibration.prefill, dtype, framework, version
        )

    def collective(self, operation: str) -> CollectiveSeries:
        """Return the series of a collective operation.

        Raises:
            InputError: the operation was not measured.
        """
        for series in self.calibration.collectives:
            if series.operation == operation:
                return series
        raise InputError(
            f"{operation} has no coefficients", where=f"calibration {self.calibration.name}"
        )

    def _series(
        self,
        what: str,
        all_series: Sequence[S],
        dtype: SeriesType,
        framework: str | None,
        version: str | None,
    ) -> S:
        element = ElementType.BF16 if dtype is ElementType.FP16 else dtype
        wanted = framework or self.calibration.reference
        found = [
            series
            for series in all_series
            if series.dtype is element
            and series.framework == wanted
            and version in (None, series.version)
        ]
        if found:
            return found[-1]  # the newest version
        known = sorted({f"{s.framework} {s.version} {s.dtype}" for s in all_series})
        raise InputError(
            f"{what} in {dtype} by {wanted}{f' {version}' if version else ''} have no coefficients",
            where=f"calibration {self.calibration.name}",
            hint=f"fitted are {', '.join(known)}" if known else "attacc gpu fit makes them",
        )
