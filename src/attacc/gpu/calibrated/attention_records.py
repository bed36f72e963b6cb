"""Coefficients of attention: those of a kernel, the shapes that it takes, and ranges of shapes.

The kernels take the coefficients in the order of the fields below.
"""

from __future__ import annotations

from pydantic import Field

from attacc.documents import Spec
from attacc.gpu.calibrated.records import Coefficients, Extent, Positive, Share
from attacc.units import Bytes, BytesPerSecond, Nanoseconds


class DecodeCoefficients(Coefficients):
    """The coefficients of the time of decode attention.

    A block of work is one head, or one group of heads, with its part of the keys.

    Attributes:
        launch_ns: time to start and end the kernels.
        block_ns: fixed time of a block of work.
        block_dim_ns: time of a block of work for every 128 elements of a head.
        core_bytes_per_s: rate at which one core takes in keys and values.
        key_ns: latency of one key.
        compute_share: share of the peak rate, in tiles of at least 16 rows.
        row_ns: time of one query of the group for every 128 elements.
        read_share: share of the memory's bandwidth for keys and values.
        write_share: share of the memory's bandwidth for queries and results.
        ramp_ns: time that is lost until the memory delivers at that share.
        ramp_bytes: bytes after which half of that time is lost.
        l2_core_bytes_per_s: rate at which the second-level cache delivers keys and values to one
            core.
        split_ns: fixed time to combine the parts, where the keys are divided.
        split_core_bytes_per_s: rate at which one core moves partial results.
        split_keys: fewest keys of a part.
        resident: number of blocks that a core works on at once.
        regroup_ns: time to arrange queries by group, where there are several groups and requests.
        large_batch: factor of a block's time beyond 992 requests, where scheduling differs.
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
    """The coefficients of the time of prefill attention.

    Attributes:
        launch_ns: time to start and end the kernels.
        tile_ns: fixed time of a tile of queries.
        tile_rows: queries of a tile; 128 are half as many again for heads of 64 elements.
        row_ns: time of one query of a tile for every 128 elements.
        key_ns: fixed time of one key that a tile reads.
        key_dim_ns: time of one key that a tile reads, for every 128 elements.
        share_64: share of the peak rate for heads of 64 elements.
        share_128: share of the peak rate for heads of 128 elements.
        share_192: share of the peak rate for heads of 192 elements.
        share_256: share of the peak rate for heads of 256 elements.
        io_share: share of the memory's bandwidth.
        kv_passes: how often keys and values cross the memory interface; this includes storing them
            in the cache.
        longest: share of the longest tile's excess that no other tile hides.
        sustained_share: share of the clock that the power limit leaves to long kernels.
        sustained_after_ns: time of a kernel that reaches half of that slow-down.
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


class AttentionRange(Spec):
    """Range of the shapes that a series of attention is stated for.

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


class DecodeKernel(Spec):
    """One kernel of decode attention, and the shapes that it takes.

    Attributes:
        group: smallest and largest number of query heads per key/value head.
        fewest_blocks: fewest blocks of work (requests x key/value heads x started 128s of keys) for
            which the kernel is taken.
        grouped: whether keys are read once for each group, and not once for each query head.
        splits_keys: whether the keys of a head are divided among cores where that is faster.
        splits_ungrouped: whether keys are divided also where every query head has its own keys.
        head_dims: smallest and largest size of a head; None for all sizes.
        coefficients: coefficients of the kernel's time.
    """

    group: tuple[Extent, Extent]
    fewest_blocks: Extent = 0
    grouped: bool
    splits_keys: bool = True
    splits_ungrouped: bool = True
    head_dims: tuple[Extent, Extent] | None = None
    coefficients: DecodeCoefficients


class PrefillKernel(Spec):
    """One kernel of prefill attention beside the main one, and the heads that it takes.

    Attributes:
        head_dims: smallest and largest size of a head.
        packs_groups: whether the queries of a group fill the rows of a tile together.
        coefficients: coefficients of the time.
    """

    head_dims: tuple[Extent, Extent]
    packs_groups: bool
    coefficients: PrefillCoefficients
