"""Recurrent states and the short convolutions before them: gated delta net, and Mamba-2.

Three forms of kernels suffice. Convolutions and token-by-token recurrences stream their rows and
states. Recurrences over chunks work through the chunks of a head one after the other. The equations
are in docs/model/gpu-model.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from pydantic import Field, model_validator

from attacc.documents import Spec
from attacc.gpu.calibrated.fused.base import FusedSeries, FusedShapes, overlapped
from attacc.gpu.calibrated.limits import Floats, Limits, limit
from attacc.gpu.calibrated.records import GB, Coefficients, Extent, Positive, Share
from attacc.hardware.gpu import GpuSpec
from attacc.units import BytesPerSecond, Nanoseconds

CHUNK: Final = 64
"""Tokens of a chunk."""
ROW_TOKENS: Final = 8.0
"""Tokens that a block of a convolution works through one after the other."""
FIT_SHARPNESS: Final = 4.0
"""How sharply bytes begin to miss the second-level cache as they outgrow it."""
COLUMN_SHARPNESS: Final = 4.0
"""How sharply the fixed time of channels gives way to that of their bytes."""
ROW_BYTES: Final = 2.0
"""Bytes of an element of rows; all measured kernels have 16-bit rows."""
STATE_BYTES: Final = 4.0
"""Bytes of a number of a measured state."""


class StateRole(StrEnum):
    """What a kernel does."""

    CONVOLUTION_PREFILL = "convolution_prefill"
    """It convolves prompts."""
    CONVOLUTION_DECODE = "convolution_decode"
    """It convolves one token of each request with the kept ones."""
    CHUNKS = "chunks"
    """It works through prompts in chunks."""
    RECURRENT = "recurrent"
    """It updates the state of each request by one token."""


@dataclass(frozen=True, slots=True)
class StateShapes(FusedShapes):
    """States or convolutions of one layer on one GPU.

    Attributes:
        batch: requests.
        queries: new tokens of every request.
        channels: channels of the convolution.
        reach: tokens that the convolution reaches over.
        heads: heads, each with a state.
        key_heads: heads of queries and keys, or groups that share B and C.
        key_dim: elements of a key.
        value_dim: elements of a value.
    """

    batch: Floats
    queries: Floats
    channels: Floats
    reach: Floats
    heads: Floats
    key_heads: Floats
    key_dim: Floats
    value_dim: Floats

    @property
    def convolved_bytes(self) -> Floats:
        """Bytes of one request's rows in and out, and of its kept columns, read and written."""
        return self.channels * (2 * self.queries + 2 * (self.reach - 1)) * ROW_BYTES

    @property
    def rows_bytes(self) -> Floats:
        """Bytes of one request's queries, keys, values and results."""
        elements = 2 * self.key_heads * self.key_dim + 2 * self.heads * self.value_dim
        return self.queries * elements * ROW_BYTES

    @property
    def state_numbers(self) -> Floats:
        """Numbers of one request's state."""
        return self.heads * self.key_dim * self.value_dim


class StreamCoefficients(Coefficients):
    """The coefficients of a kernel that streams rows and states.

    Attributes:
        launch_ns: time to start and end the kernel.
        row_ns: time of one of the tokens that a block works through one after the other.
        column_ns: fixed time of one channel of a request on one core; None for none.
        short_ns: additional time of such a channel with fewer than `ROW_TOKENS` tokens.
        fast_bytes_per_s: rate while all bytes fit into the second-level cache.
        memory_share: share of the memory's bandwidth of bytes that do not.
        l2_fit: bytes of which half miss the second-level cache, as a multiple of it.
    """

    launch_ns: Nanoseconds = Field(validation_alias="launch")
    row_ns: Nanoseconds = Field(validation_alias="row")
    fast_bytes_per_s: BytesPerSecond = Field(validation_alias="fast")
    memory_share: Share
    l2_fit: Positive
    column_ns: Nanoseconds | None = Field(default=None, validation_alias="column")
    short_ns: Nanoseconds | None = Field(default=None, validation_alias="short")


class ChunkCoefficients(Coefficients):
    """The coefficients of a recurrence over chunks.

    Attributes:
        launch_ns: time to start and end the kernels.
        block_ns: fixed time of a head of a request.
        chunk_ns: time of each of its chunks, which follow each other.
        memory_share: share of the memory's bandwidth.
        sharpness: how well the heads' work and the traffic overlap; infinite for a perfect overlap.
    """

    launch_ns: Nanoseconds = Field(validation_alias="launch")
    block_ns: Nanoseconds = Field(validation_alias="block")
    chunk_ns: Nanoseconds = Field(validation_alias="chunk")
    memory_share: Share
    sharpness: Positive


class StateRange(Spec):
    """Range of the shapes that a series is stated for.

    Attributes:
        batch: smallest and largest number of requests.
        queries: smallest and largest number of new tokens of a request.
        channels: smallest and largest number of channels of the convolution.
        heads: smallest and largest number of heads.
    """

    batch: tuple[Extent, Extent]
    queries: tuple[Extent, Extent]
    channels: tuple[Extent, Extent]
    heads: tuple[Extent, Extent]


class StateSeries(FusedSeries):
    """One kernel of a recurrent layer.

    Attributes:
        role: what the kernel does.
        range: shapes that the series is stated for.
        stream: coefficients of a kernel that streams.
        chunks: coefficients of a recurrence over chunks.
    """

    role: StateRole
    range: StateRange
    stream: StreamCoefficients | None = None
    chunks: ChunkCoefficients | None = None

    @model_validator(mode="after")
    def _has_the_coefficients_of_its_role(self) -> StateSeries:
        wanted = "chunks" if self.role is StateRole.CHUNKS else "stream"
        if (self.stream is None) == (wanted == "stream") or (self.chunks is None) == (
            wanted == "chunks"
        ):
            raise ValueError(f"{self.role} needs {wanted}, and nothing else")
        return self


def streamed_bytes(
    role: StateRole, shapes: StateShapes, state_bytes: float = STATE_BYTES
) -> Floats:
    """Return the bytes of one request that a kernel reads and writes.

    Args:
        role: what the kernel does.
        shapes: the states or convolutions.
        state_bytes: bytes of a number of the state.
    """
    if role in (StateRole.CONVOLUTION_PREFILL, StateRole.CONVOLUTION_DECODE):
        return shapes.convolved_bytes
    return shapes.rows_bytes + 2 * shapes.state_numbers * state_bytes


def stream_times(
    shapes: StateShapes, each_bytes: Floats, gpu: GpuSpec, of: StreamCoefficients
) -> Floats:
    """Return the times of kernels that stream, in nanoseconds.

    Args:
        shapes: the states or convolutions.
        each_bytes: bytes of every request.
        gpu: the GPU.
        of: the coefficients.
    """
    total = shapes.batch * each_bytes
    misses = 1 / (1 + (of.l2_fit * gpu.l2_bytes / np.maximum(total, 1.0)) ** FIT_SHARPNESS)
    memory = of.memory_share * gpu.memory_bytes_per_s * GB
    time = total * ((1 - misses) / (of.fast_bytes_per_s * GB) + misses / memory)
    if of.column_ns:
        short = np.where(shapes.queries < ROW_TOKENS, of.short_ns or 0.0, 0.0)
        fixed = shapes.batch * shapes.channels * (of.column_ns + short) / gpu.cores
        time = overlapped(COLUMN_SHARPNESS, fixed, time)
    return of.launch_ns + of.row_ns * np.minimum(shapes.queries, ROW_TOKENS) + time


def chunk_times(
    shapes: StateShapes, each_bytes: Floats, gpu: GpuSpec, of: ChunkCoefficients
) -> Floats:
    """Return the times of recurrences over chunks, in nanoseconds.

    Args:
        shapes: the states.
        each_bytes: bytes of every request.
        gpu: the GPU.
        of: the coefficients.
    """
    rounds = np.ceil(shapes.batch * shapes.heads / gpu.cores)
    work = rounds * (of.block_ns + of.chunk_ns * np.ceil(shapes.queries / CHUNK))
    memory = shapes.batch * each_bytes / (of.memory_share * gpu.memory_bytes_per_s * GB)
    return of.launch_ns + overlapped(of.sharpness, work, memory)


def state_ns(
    series: StateSeries, gpu: GpuSpec, shapes: StateShapes, state_bytes: float = STATE_BYTES
) -> Floats:
    """Return the times of states or convolutions in nanoseconds.

    Args:
        series: series of the kernel.
        gpu: the GPU.
        shapes: the states or convolutions.
        state_bytes: bytes of a number of the state.
    """
    each = streamed_bytes(series.role, shapes, state_bytes)
    if series.chunks is not None:
        return chunk_times(shapes, each, gpu, series.chunks)
    assert series.stream is not None  # noqa: S101 - the series was checked
    return stream_times(shapes, each, gpu, series.stream)


def state_limits(series: StateSeries, shapes: StateShapes) -> Limits:
    """Return for each size which shapes are within the range of a series."""
    within = series.range
    sizes = [
        limit("batch", shapes.batch, within.batch),
        limit("tokens", shapes.queries, within.queries),
    ]
    if series.role in (StateRole.CHUNKS, StateRole.RECURRENT):
        return [*sizes, limit("heads", shapes.heads, within.heads)]
    return [*sizes, limit("channels", shapes.channels, within.channels)]
