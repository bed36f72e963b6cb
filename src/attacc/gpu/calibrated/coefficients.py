"""Coefficients of the calibrated GPU model, and the documents that hold them.

A document describes one GPU. For each operator it holds several series. A series belongs to one
library: a framework, its version and an element type. It states the coefficients that were fitted
to the library's measured times, the shapes that they were fitted to, and the error of
cross-validation. The equations are in docs/model/gpu-model.md. The kernels take the coefficients in
the order of the fields below.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from pydantic import Field, model_validator

from attacc.documents import DocumentName, Presets, PresetSpec, Spec
from attacc.gpu.calibrated.attention_records import (
    AttentionRange,
    DecodeKernel,
    PrefillCoefficients,
    PrefillKernel,
)
from attacc.gpu.calibrated.fused.custom_all_reduce import CustomAllReduceSeries
from attacc.gpu.calibrated.fused.head_products import HeadProductSeries
from attacc.gpu.calibrated.fused.latent_attention import LatentDecodeSeries, LatentPrefillSeries
from attacc.gpu.calibrated.fused.moe import ExpertsSeries
from attacc.gpu.calibrated.fused.sparse_decode import SparseDecodeSeries
from attacc.gpu.calibrated.fused.state import StateSeries
from attacc.gpu.calibrated.fused.windowed_attention import (
    WindowedDecodeSeries,
    WindowedPrefillSeries,
)
from attacc.gpu.calibrated.records import (
    Coefficients,
    Error,
    Extent,
    Fitted,
    Library,
    Positive,
    SeriesType,
    Share,
)
from attacc.models.precision import ElementType
from attacc.units import BytesPerSecond, Nanoseconds, Picojoules, PicojoulesPerByte, Watts


class GemmCoefficients(Coefficients):
    """The coefficients of the time of a matrix product.

    Attributes:
        launch_ns: time to start and end a kernel.
        tile_ns: time to fill and drain a tile's pipeline, once for each round of tiles.
        compute_share: share of the peak rate that a core reaches inside a tile.
        core_bytes_per_s: rate at which one core takes in operands.
        l2_core_bytes_per_s: rate at which the second-level cache delivers operands to one core.
        read_share: share of the memory's bandwidth for operands.
        write_share: share of the memory's bandwidth for results.
        split_ns: fixed time to reduce partial results, where the inner dimension is divided.
        split_core_bytes_per_s: rate at which one core moves partial results.
        step_ns: latency of one element of the inner dimension.
        sustained_share: share of the clock that the power limit leaves to long kernels that are
            bound by arithmetic.
        sustained_after_ns: time of a kernel that reaches half of that slow-down.
        sharpness: how well arithmetic and traffic overlap; infinite for a perfect overlap.
        resident: number of small tiles that a core works on at once.
    """

    launch_ns: Nanoseconds = Field(validation_alias="launch")
    tile_ns: Nanoseconds = Field(validation_alias="tile")
    compute_share: Share
    core_bytes_per_s: BytesPerSecond = Field(validation_alias="core_load")
    l2_core_bytes_per_s: BytesPerSecond = Field(validation_alias="l2_per_core")
    read_share: Share
    write_share: Share
    split_ns: Nanoseconds = Field(validation_alias="split")
    split_core_bytes_per_s: BytesPerSecond = Field(validation_alias="split_per_core")
    step_ns: Nanoseconds = Field(validation_alias="step")
    sustained_share: Share
    sustained_after_ns: Nanoseconds = Field(validation_alias="sustained_after")
    sharpness: Positive
    resident: Positive


class QuantiseCoefficients(Coefficients):
    """The coefficients of converting the left matrix to fewer bits, and of that library's tiles.

    Attributes:
        row_ns: time to convert one row on one core.
        fast_bytes_per_s: rate at which the matrix is read and written, while it fits into the
            second-level cache.
        slow_bytes_per_s: rate at which the matrix is read and written, if it does not fit.
        ragged_tiles: additional clusters of tiles that a row of clusters costs if it is not full.
        single_row_ns: additional time where the matrix has one row, which other kernels convert;
            None for no such time.
    """

    row_ns: Nanoseconds = Field(validation_alias="row")
    fast_bytes_per_s: BytesPerSecond = Field(validation_alias="fast")
    slow_bytes_per_s: BytesPerSecond = Field(validation_alias="slow")
    ragged_tiles: Positive
    single_row_ns: Nanoseconds | None = Field(default=None, validation_alias="single_row")


class HostCoefficients(Coefficients):
    """The coefficients of the host's work for a product, while which the GPU waits.

    Attributes:
        host_ns: time in which the host starts the kernels of a product.
        ragged_rows_ns: additional time for rows that are no multiple of 4, whose scales other
            kernels align.
    """

    host_ns: Nanoseconds = Field(validation_alias="host")
    ragged_rows_ns: Nanoseconds = Field(validation_alias="ragged_rows")


class Protocol(Spec):
    """One way to run a collective. The library takes the fastest way.

    Attributes:
        start_ns: time without data, for any number of GPUs.
        hop_ns: time for each further GPU.
        bytes_per_s: rate at which the busiest link moves data.
    """

    start_ns: Nanoseconds = Field(validation_alias="start")
    hop_ns: Nanoseconds = Field(validation_alias="hop")
    bytes_per_s: BytesPerSecond = Field(validation_alias="rate")


class GemmRange(Spec):
    """Range of the shapes that a series of products is stated for.

    Attributes:
        m: smallest and largest number of rows.
        n: smallest and largest number of columns.
        k: smallest and largest inner dimension.
    """

    m: tuple[Extent, Extent]
    n: tuple[Extent, Extent]
    k: tuple[Extent, Extent]


class GemmLibraryName(StrEnum):
    """The kernels that a library chooses among."""

    CUBLAS = "cublas"
    """Any tile, and any division of the inner dimension."""
    CUTLASS = "cutlass"
    """One tile for every range of rows, inner dimension undivided (vLLM's 8-bit products)."""
    CUTLASS_PAIRS = "cutlass_pairs"
    """The same on Blackwell, where two cores compute one tile."""
    DEEP_GEMM = "deep_gemm"
    """Tiles of 64 or 128 rows, inner dimension undivided (vLLM's fp8_block on Blackwell)."""
    CUTE = "cute"
    """Tiles of 128 or 256 rows, inner dimension undivided (vLLM's nvfp4)."""


class GemmSeries(Library, Fitted):
    """Matrix products of one library.

    Attributes:
        dtype: element type of both operands.
        library: the kernels that the library has.
        range: shapes that the series is stated for.
        coefficients: coefficients of the product.
        quantise: coefficients of converting the left matrix, where the measured time includes the
            conversion.
        host: coefficients of the host's work, where the measured time includes it.
    """

    dtype: SeriesType
    library: GemmLibraryName
    range: GemmRange
    coefficients: GemmCoefficients
    quantise: QuantiseCoefficients | None = None
    host: HostCoefficients | None = None


class DecodeSeries(Library, Fitted):
    """Decode attention of one library.

    Attributes:
        dtype: element type of the cache.
        range: shapes that the series is stated for.
        kernels: kernels of the library. The first one that takes a shape computes it.
    """

    dtype: ElementType
    range: AttentionRange
    kernels: tuple[DecodeKernel, ...]


class PrefillSeries(Library, Fitted):
    """Prefill attention of one library.

    Attributes:
        dtype: element type of the cache.
        packs_groups: whether the queries of a group fill the rows of a tile together.
        single_token_decodes: whether a prompt of one token runs as decode attention over one key.
        range: shapes that the series is stated for.
        coefficients: coefficients of the time.
        others: kernels that take some sizes of heads instead.
    """

    dtype: ElementType
    packs_groups: bool
    single_token_decodes: bool
    range: AttentionRange
    coefficients: PrefillCoefficients
    others: tuple[PrefillKernel, ...] = ()


class CollectiveSeries(Fitted):
    """One collective operation over NVLink.

    Attributes:
        operation: the operation, as in "all_reduce".
        gpus: numbers of GPUs that the series is stated for.
        bytes: smallest and largest message.
        protocols: ways to run the operation. The fastest one is taken.
        full_share: share of the fastest protocol's rate, for each number of GPUs in ``gpus``.
    """

    operation: str
    gpus: tuple[Extent, ...]
    bytes: tuple[Extent, Extent]
    protocols: tuple[Protocol, ...]
    full_share: tuple[Positive, ...]

    @model_validator(mode="after")
    def _has_a_share_for_each(self) -> CollectiveSeries:
        if len(self.full_share) != len(self.gpus):
            raise ValueError(
                f"{len(self.full_share)} full_share for {len(self.gpus)} numbers of gpus"
            )
        return self


class PowerSpec(Spec):
    """The parts of a GPU's power while kernels run back to back.

    Attributes:
        idle_w: power between kernels, with raised clocks.
        active_w: additional power while any kernel runs.
        limit_w: power limit of the board. Where a kernel would exceed it, the clock falls.
        gemm_flop_pj: energy of one operation of a matrix product.
        attention_flop_pj: energy of one operation of attention over a 16-bit cache.
        attention_flop_fp8_pj: energy of one operation of attention over an 8-bit cache.
        dram_pj_per_byte: energy of a byte that crosses the memory interface.
        l2_pj_per_byte: energy of a byte from the second-level cache.
        gemm_error: mean absolute relative error of matrix products that were held back.
        attention_error: mean absolute relative error of attention that was held back.
    """

    idle_w: Watts = Field(validation_alias="idle")
    active_w: Watts = Field(validation_alias="active")
    limit_w: Watts = Field(validation_alias="limit")
    gemm_flop_pj: Picojoules = Field(validation_alias="gemm_flop")
    attention_flop_pj: Picojoules = Field(validation_alias="attention_flop")
    attention_flop_fp8_pj: Picojoules = Field(validation_alias="attention_flop_fp8")
    dram_pj_per_byte: PicojoulesPerByte = Field(validation_alias="dram")
    l2_pj_per_byte: PicojoulesPerByte = Field(validation_alias="l2")
    gemm_error: Error
    attention_error: Error


class CalibrationSpec(PresetSpec):
    """The calibrated model of one GPU.

    Attributes:
        gpu: the GPU preset whose data sheet the shares refer to.
        measured_as: the name of this GPU in tables of measurements.
        reference: the framework that stands for this GPU where none is named.
        scaled_from: the calibration whose coefficients this GPU takes, on its own data sheet. Such
            a document holds no coefficients of its own, and its error is unknown.
        gemm: series of matrix products.
        decode: series of decode attention.
        prefill: series of prefill attention.
        collectives: series of sums and gathers over GPUs.
        custom_all_reduce: series of sums over GPUs by a library's own kernel.
        moe: series of the experts of a layer.
        gated_delta_net: series of the kernels of gated delta net.
        mamba2: series of the convolutions of Mamba-2.
        windowed_decode_attention: series of decode attention within a window.
        windowed_prefill_attention: series of prefill attention within a window.
        mla_decode: series of decode attention over latents.
        mla_prefill: series of prefill attention over latents.
        mla_batched_matmul: series of products of heads, before and after attention over latents.
        sparse_decode: series of attention modules with sparse attention, in decode.
        power: parts of the power; None where no power was measured.
    """

    gpu: DocumentName
    measured_as: tuple[str, ...] = ()
    reference: str
    scaled_from: str | None = None
    gemm: tuple[GemmSeries, ...] = ()
    decode: tuple[DecodeSeries, ...] = ()
    prefill: tuple[PrefillSeries, ...] = ()
    collectives: tuple[CollectiveSeries, ...] = ()
    custom_all_reduce: tuple[CustomAllReduceSeries, ...] = ()
    moe: tuple[ExpertsSeries, ...] = ()
    gated_delta_net: tuple[StateSeries, ...] = ()
    mamba2: tuple[StateSeries, ...] = ()
    windowed_decode_attention: tuple[WindowedDecodeSeries, ...] = ()
    windowed_prefill_attention: tuple[WindowedPrefillSeries, ...] = ()
    mla_decode: tuple[LatentDecodeSeries, ...] = ()
    mla_prefill: tuple[LatentPrefillSeries, ...] = ()
    mla_batched_matmul: tuple[HeadProductSeries, ...] = ()
    sparse_decode: tuple[SparseDecodeSeries, ...] = ()
    power: PowerSpec | None = None


class CpuCalibrationSpec(PresetSpec):
    """The shares of its data sheet that attention on a CPU reaches.

    Attributes:
        memory_share: share of the memory's bandwidth.
        compute_share: share of the vector units' peak rate.
    """

    memory_share: Share
    compute_share: Share


CALIBRATIONS: Final = Presets("calibration", CalibrationSpec, "attacc.gpu", "presets/calibration")
CPU_CALIBRATIONS: Final = Presets(
    "CPU calibration", CpuCalibrationSpec, "attacc.gpu", "presets/cpu-calibration"
)
