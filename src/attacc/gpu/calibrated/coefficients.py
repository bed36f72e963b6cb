"""Coefficients of the calibrated GPU model, and the documents that hold them.

A document describes one GPU. For each operator it holds series: one library (a framework, its
version, an element type), with the coefficients fitted to its measured times, the shapes they were
fitted to, and the error that cross-validation left. The equations are in docs/model/gpu-model.md;
the fields below are the coefficients in the order in which the kernels take them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from attacc.documents import DocumentName, Presets, PresetSpec, Spec
from attacc.models.precision import ElementType
from attacc.units import Bytes, BytesPerSecond, Nanoseconds, Picojoules, PicojoulesPerByte, Watts

Positive = Annotated[float, Field(ge=1e-6, le=1e6)]
"""A number of something, or a ratio, far beyond what any fit may reach."""
Share = Annotated[float, Field(ge=1e-6, le=1.2)]
"""A share of what the data sheet states; clocks above the stated ones make it exceed 1."""
Error = Annotated[float, Field(ge=0, le=1e6)]
"""A mean absolute relative error; 1 is as much as what was measured."""
Extent = Annotated[int, Field(ge=0, le=2**53)]
"""A smallest or a largest size of something that was measured, or how much was."""
Points = Annotated[int, Field(ge=0, le=2**40)]
"""How many measurements."""
GB: Final = 1e-9
"""Bytes per nanosecond in a byte per second."""


class Coefficients(Spec):
    """Base of the coefficient records."""

    def vector(self) -> NDArray[np.float64]:
        """Return the coefficients in order: nanoseconds, bytes per nanosecond, bytes, shares."""
        values: list[float] = []
        for name in type(self).model_fields:
            value: float = getattr(self, name)
            values.append(value * GB if name.endswith("_bytes_per_s") else value)
        return np.array(values)


class GemmCoefficients(Coefficients):
    """What the time of a matrix product is made of.

    Attributes:
        launch_ns: starting and ending a kernel.
        tile_ns: filling and draining a tile's pipeline, once per round of tiles.
        compute_share: of the peak rate, inside a tile.
        core_bytes_per_s: operands that one core takes in.
        l2_core_bytes_per_s: operands that the second-level cache delivers, per core.
        read_share: of the memory's bandwidth, for operands.
        write_share: of the memory's bandwidth, for results.
        split_ns: reducing partial results where the inner dimension is divided, whatever the size.
        split_core_bytes_per_s: moving partial results, per core.
        step_ns: latency of one element of the inner dimension.
        sustained_share: of the clock, left by the power limit to long arithmetic-bound kernels.
        sustained_after_ns: half of that slow-down is reached by kernels of this time.
        sharpness: how well arithmetic and traffic overlap; infinite where perfectly.
        resident: small tiles that a core works on at once.
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
    """Converting the left matrix to 8 bits before the product, and how the 8-bit library tiles.

    Attributes:
        row_ns: of one row on one core.
        fast_bytes_per_s: matrix read and written, while it fits into the second-level cache.
        slow_bytes_per_s: the same, once it does not.
        ragged_tiles: further clusters of tiles that a row of clusters costs if it is not full.
    """

    row_ns: Nanoseconds = Field(validation_alias="row")
    fast_bytes_per_s: BytesPerSecond = Field(validation_alias="fast")
    slow_bytes_per_s: BytesPerSecond = Field(validation_alias="slow")
    ragged_tiles: Positive


class DecodeCoefficients(Coefficients):
    """What the time of decode attention is made of.

    Attributes:
        launch_ns: starting and ending the kernels.
        block_ns: of a block of work (one head, or one group of heads, and its part of the keys).
        block_dim_ns: the same, per 128 elements of a head.
        core_bytes_per_s: keys and values that one core takes in.
        key_ns: latency of one key.
        compute_share: of the peak rate, in tiles of at least 16 rows.
        row_ns: of one query of the group, per 128 elements.
        read_share: of the memory's bandwidth, for keys and values.
        write_share: of the memory's bandwidth, for queries and results.
        ramp_ns: what is lost until the memory delivers that much.
        ramp_bytes: half of that is lost by this many bytes.
        l2_core_bytes_per_s: keys and values that the second-level cache delivers, per core.
        split_ns: combining the parts where the keys are divided, whatever the size.
        split_core_bytes_per_s: moving partial results, per core.
        split_keys: fewest keys of a part.
        resident: blocks that a core works on at once.
        regroup_ns: arranging queries by group, where there are several groups and requests.
        large_batch: factor of a block's time beyond 992 requests, which are scheduled otherwise.
        sharpness: how well work on the cores and traffic overlap.
    """

    launch_ns: Nanoseconds = Field(validation_alias="launch")
    block_ns: Nanoseconds = Field(validation_alias="block")
    block_dim_ns: Nanoseconds = Field(validation_alias="block_dim")
    core_bytes_per_s: BytesPerSecond = Field(validation_alias="core_load")
    key_ns: Nanoseconds = Field(validation_alias="key")
    compute_share: Share
    row_ns: Nanoseconds = Field(validation_alias="row")
    read_share: Share
    write_share: Positive
    ramp_ns: Nanoseconds = Field(validation_alias="ramp")
    ramp_bytes: Bytes
    l2_core_bytes_per_s: BytesPerSecond = Field(validation_alias="l2_per_core")
    split_ns: Nanoseconds = Field(validation_alias="split")
    split_core_bytes_per_s: BytesPerSecond = Field(validation_alias="split_per_core")
    split_keys: Positive
    resident: Positive
    regroup_ns: Nanoseconds = Field(validation_alias="regroup")
    large_batch: Positive
    sharpness: Positive


class PrefillCoefficients(Coefficients):
    """What the time of prefill attention is made of.

    Attributes:
        launch_ns: starting and ending the kernels.
        tile_ns: of a tile of queries.
        tile_rows: queries of a tile; half as many again for heads of 64 elements.
        row_ns: of one query of a tile, per 128 elements.
        key_ns: of one key that a tile reads.
        key_dim_ns: the same, per 128 elements.
        share_64: of the peak rate, for heads of 64 elements.
        share_128: for 128.
        share_192: for 192.
        share_256: for 256.
        io_share: of the memory's bandwidth.
        kv_passes: how often keys and values cross the memory, storing them in the cache included.
        longest: part of the longest tile's excess that no other tile hides.
        sustained_share: of the clock, left by the power limit to long kernels.
        sustained_after_ns: half of that slow-down is reached by kernels of this time.
    """

    launch_ns: Nanoseconds = Field(validation_alias="launch")
    tile_ns: Nanoseconds = Field(validation_alias="tile")
    tile_rows: Positive
    row_ns: Nanoseconds = Field(validation_alias="row")
    key_ns: Nanoseconds = Field(validation_alias="key")
    key_dim_ns: Nanoseconds = Field(validation_alias="key_dim")
    share_64: Share
    share_128: Share
    share_192: Share
    share_256: Share
    io_share: Positive
    kv_passes: Positive
    longest: Positive
    sustained_share: Share
    sustained_after_ns: Nanoseconds = Field(validation_alias="sustained_after")


class Protocol(Spec):
    """One way of running a collective; the library takes the fastest.

    Attributes:
        start_ns: without data, whatever the number of GPUs.
        hop_ns: for each further GPU.
        bytes_per_s: at which the busiest link moves data.
    """

    start_ns: Nanoseconds = Field(validation_alias="start")
    hop_ns: Nanoseconds = Field(validation_alias="hop")
    bytes_per_s: BytesPerSecond = Field(validation_alias="rate")


class Fitted(Spec):
    """What every series says of its origin.

    Attributes:
        points: measurements that it was fitted to.
        error: mean absolute relative error on shapes held back, in cross-validation.
    """

    points: Points
    error: Error


class Library(Spec):
    """Whose kernels were measured.

    Attributes:
        framework: as in "VLLM".
        version: of the framework.
    """

    framework: str
    version: str


class GemmRange(Spec):
    """Shapes that a series is stated for.

    Attributes:
        m: smallest and largest number of rows.
        n: smallest and largest number of columns.
        k: smallest and largest inner dimension.
    """

    m: tuple[Extent, Extent]
    n: tuple[Extent, Extent]
    k: tuple[Extent, Extent]


class AttentionRange(Spec):
    """Shapes that a series is stated for.

    Attributes:
        batch: smallest and largest number of requests.
        heads: smallest and largest number of query heads.
        group: smallest and largest number of query heads that share a key/value head.
        length: smallest and largest number of keys, or of tokens of a prompt.
        head_dims: sizes of a head.
    """

    batch: tuple[Extent, Extent]
    heads: tuple[Extent, Extent]
    group: tuple[Extent, Extent]
    length: tuple[Extent, Extent]
    head_dims: tuple[Extent, ...]


class GemmLibraryName(StrEnum):
    """Which kernels a library chooses among."""

    CUBLAS = "cublas"
    """Any tile, and any division of the inner dimension."""
    CUTLASS = "cutlass"
    """One tile for every range of rows, the inner dimension undivided (vLLM's 8-bit products)."""


class GemmSeries(Library, Fitted):
    """Matrix products of one library.

    Attributes:
        dtype: element type of both operands.
        library: which kernels it has.
        range: shapes it is stated for.
        coefficients: of the product.
        quantise: of the conversion of the left matrix, where it is part of the measured time.
    """

    dtype: ElementType
    library: GemmLibraryName
    range: GemmRange
    coefficients: GemmCoefficients
    quantise: QuantiseCoefficients | None = None


class DecodeKernel(Spec):
    """One kernel of decode attention, and which shapes it takes.

    Attributes:
        group: smallest and largest number of query heads per key/value head.
        fewest_blocks: blocks of work (requests x key/value heads x started 128s of keys) from
            which on it is taken.
        grouped: keys are read once per group, rather than once per query head.
        splits_keys: the keys of a head are divided among cores where that is faster.
        splits_ungrouped: the same where every query head has its own keys.
        coefficients: of its time.
    """

    group: tuple[Extent, Extent]
    fewest_blocks: Extent = 0
    grouped: bool
    splits_keys: bool = True
    splits_ungrouped: bool = True
    coefficients: DecodeCoefficients


class DecodeSeries(Library, Fitted):
    """Decode attention of one library.

    Attributes:
        dtype: element type of the cache.
        range: shapes it is stated for.
        kernels: the first one that takes a shape computes it.
    """

    dtype: ElementType
    range: AttentionRange
    kernels: tuple[DecodeKernel, ...]


class PrefillSeries(Library, Fitted):
    """Prefill attention of one library.

    Attributes:
        dtype: element type of the cache.
        packs_groups: queries of a group fill the rows of a tile together.
        single_token_decodes: a prompt of one token is decode attention over one key.
        range: shapes it is stated for.
        coefficients: of its time.
    """

    dtype: ElementType
    packs_groups: bool
    single_token_decodes: bool
    range: AttentionRange
    coefficients: PrefillCoefficients


class CollectiveSeries(Fitted):
    """One collective operation over NVLink.

    Attributes:
        operation: as in "all_reduce".
        gpus: numbers of GPUs it is stated for.
        bytes: smallest and largest message.
        protocols: the fastest one is taken.
        full_share: of the fastest protocol's rate, by number of GPUs as in ``gpus``.
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
    """Power of a GPU while kernels run back to back, and where it goes.

    Attributes:
        idle_w: between kernels, clocks raised.
        active_w: further, while any kernel runs.
        limit_w: of the board; beyond it the clock falls.
        gemm_flop_pj: of one operation of a matrix product.
        attention_flop_pj: of one operation of attention over a 16-bit cache.
        attention_flop_fp8_pj: of one operation of attention over an 8-bit cache.
        dram_pj_per_byte: of a byte that crosses the memory interface.
        l2_pj_per_byte: of a byte from the second-level cache.
        gemm_error: mean absolute relative error of matrix products held back.
        attention_error: the same of attention.
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
        gpu: the GPU preset that the shares refer to.
        measured_as: what tables of measurements call this GPU.
        reference: the library that stands for this GPU where none is named.
        scaled_from: the calibration whose coefficients this GPU takes, on its own data sheet;
            then it holds none of its own, and its error is unknown.
        gemm: matrix products.
        decode: decode attention.
        prefill: prefill attention.
        collectives: sums and gathers over GPUs.
        power: power; None where nothing was measured.
    """

    gpu: DocumentName
    measured_as: tuple[str, ...] = ()
    reference: str
    scaled_from: str | None = None
    gemm: tuple[GemmSeries, ...] = ()
    decode: tuple[DecodeSeries, ...] = ()
    prefill: tuple[PrefillSeries, ...] = ()
    collectives: tuple[CollectiveSeries, ...] = ()
    power: PowerSpec | None = None


class CpuCalibrationSpec(PresetSpec):
    """What attention on a CPU reaches of its data sheet.

    Attributes:
        memory_share: of the memory's bandwidth.
        compute_share: of the vector units' peak.
    """

    memory_share: Share
    compute_share: Share


CALIBRATIONS: Final = Presets("calibration", CalibrationSpec, "attacc.gpu", "presets/calibration")
CPU_CALIBRATIONS: Final = Presets(
    "CPU calibration", CpuCalibrationSpec, "attacc.gpu", "presets/cpu-calibration"
)
