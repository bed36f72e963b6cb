"""Sums over GPUs as vLLM runs them: by a kernel of its own for short messages, else by NCCL.

The kernel of its own lets every GPU read the whole message of every other GPU (one shot), or first
its own part of it and then the sums of the others (two shots). The equations are in
docs/model/gpu-model.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
from pydantic import Field, model_validator

from attacc.errors import InputError
from attacc.gpu.calibrated.fused.base import FusedSeries, FusedShapes, overlapped
from attacc.gpu.calibrated.limits import Floats, Limits, limit
from attacc.gpu.calibrated.records import Coefficients, Extent, Positive
from attacc.units import BytesPerSecond, Nanoseconds

ONE_SHOT_BELOW: Final = {2: 2.0**40, 4: 2.0**19, 6: 2.0**18, 8: 2.0**18}
"""Number of GPUs -> bytes below which every GPU reads all of the message (vLLM's
custom_all_reduce.cuh)."""
SWITCH: Final = 12.0
"""How sharply NCCL changes from one protocol to the next."""
HOST_SHARPNESS: Final = 4.0
"""How sharply the host's time gives way to the kernel's."""


@dataclass(frozen=True, slots=True)
class SumShapes(FusedShapes):
    """Sums of a message over GPUs.

    Attributes:
        gpus: number of GPUs that take part.
        message_bytes: bytes of the message.
    """

    gpus: Floats
    message_bytes: Floats


class CustomAllReduceCoefficients(Coefficients):
    """The coefficients of the time of a sum.

    Attributes:
        start_ns: time without data of one shot.
        hop_ns: time of one shot for each further GPU.
        read_bytes_per_s: rate at which a GPU reads from the others.
        second_ns: additional time of two shots.
        nccl_start_ns: time without data of NCCL.
        nccl_hop_ns: time of NCCL for each further GPU.
        nccl_bytes_per_s: rate of NCCL's link in its low-latency protocol.
        simple_start_ns: additional time without data of NCCL's simple protocol.
        simple_bytes_per_s: rate of NCCL's link in its simple protocol.
    """

    start_ns: Nanoseconds = Field(validation_alias="start")
    hop_ns: Nanoseconds = Field(validation_alias="hop")
    read_bytes_per_s: BytesPerSecond = Field(validation_alias="read")
    second_ns: Nanoseconds = Field(validation_alias="second")
    nccl_start_ns: Nanoseconds = Field(validation_alias="nccl_start")
    nccl_hop_ns: Nanoseconds = Field(validation_alias="nccl_hop")
    nccl_bytes_per_s: BytesPerSecond = Field(validation_alias="nccl_rate")
    simple_start_ns: Nanoseconds = Field(validation_alias="simple_start")
    simple_bytes_per_s: BytesPerSecond = Field(validation_alias="simple_rate")


class EagerCoefficients(Coefficients):
    """The coefficients of a sum that the host starts, rather than a graph.

    Attributes:
        host_ns: time in which the host starts the library's own kernel.
        host_hop_ns: time of the host for each further GPU.
        nccl_host_ns: time in which the host starts NCCL's.
        copy_bytes_per_s: rate at which the message is first copied.
    """

    host_ns: Nanoseconds = Field(validation_alias="host")
    host_hop_ns: Nanoseconds = Field(validation_alias="host_hop")
    nccl_host_ns: Nanoseconds = Field(validation_alias="nccl_host")
    copy_bytes_per_s: BytesPerSecond = Field(validation_alias="copy")


class CustomAllReduceSeries(FusedSeries):
    """Sums over GPUs of one library, in graphs or started one by one.

    Attributes:
        gpus: numbers of GPUs that the series is stated for.
        bytes: smallest and largest message.
        own_below: bytes below which the library runs its own kernel, for each number of GPUs in
            ``gpus``.
        nccl_share: share of the rate of NCCL's low-latency protocol, for each number of GPUs in
            ``gpus``. It differs where switches add, and where GPUs do.
        simple_share: share of the rate of NCCL's simple protocol, likewise.
        coefficients: coefficients of the kernels.
        eager: coefficients of the host; None where kernels run in a graph.
    """

    gpus: Annotated[tuple[Extent, ...], Field(min_length=1)]
    bytes: tuple[Extent, Extent]
    own_below: tuple[Extent, ...]
    nccl_share: tuple[Positive, ...]
    simple_share: tuple[Positive, ...]
    coefficients: CustomAllReduceCoefficients
    eager: EagerCoefficients | None = None

    @model_validator(mode="after")
    def _states_each_number_of_gpus(self) -> CustomAllReduceSeries:
        for name in ("own_below", "nccl_share", "simple_share"):
            values: tuple[float, ...] = getattr(self, name)
            if len(values) != len(self.gpus):
                raise ValueError(f"{len(values)} {name} for {len(self.gpus)} numbers of gpus")
        return self


def sum_times(
    shapes: SumShapes,
    own: Floats,
    shares: tuple[Floats, Floats],
    vector: Floats,
    eager: Floats | None,
) -> Floats:
    """Return the times of sums in nanoseconds.

    Args:
        shapes: the sums.
        own: bytes below which each sum runs the library's own kernel.
        shares: shares of the rates of NCCL's two protocols that each sum has.
        vector: coefficients, in the order of `CustomAllReduceCoefficients`.
        eager: coefficients, in the order of `EagerCoefficients`; None in a graph.
    """
    start, hop, read, second, nccl, nccl_hop, rate, simple, simple_rate = map(float, vector)
    others, size = shapes.gpus - 1, shapes.message_bytes
    below = np.interp(shapes.gpus, list(ONE_SHOT_BELOW), list(ONE_SHOT_BELOW.values()))
    on_wire = 2 * size * others / shapes.gpus
    one = start + hop * others + others * size / read
    two = start + hop * others + second + on_wire / read
    hops = nccl + nccl_hop * others
    fast = hops + on_wire / (rate * shares[0])
    slow = hops + simple + on_wire / (simple_rate * shares[1])
    far = np.sum(np.array([fast, slow]) ** -SWITCH, axis=0) ** (-1 / SWITCH)
    runs_own = size < own
    near: Floats = np.where(size < below, one, two)
    time: Floats = np.where(runs_own, near, far)
    if eager is None:
        return time
    host, host_hop, nccl_host, copy = map(float, eager)
    waits: Floats = np.where(runs_own, host + host_hop * others, nccl_host)
    time = time + size / copy
    return overlapped(HOST_SHARPNESS, time, waits)


def custom_all_reduce_ns(series: CustomAllReduceSeries, shapes: SumShapes) -> Floats:
    """Return the times of sums in nanoseconds.

    Args:
        series: series of the library.
        shapes: the sums.

    Raises:
        InputError: the series is not stated for a number of GPUs.
    """
    known = np.array(series.gpus, dtype=np.float64)
    unknown = ~np.isin(shapes.gpus, known)
    if unknown.any():
        raise InputError(
            f"nothing is known of {series.framework}'s sums over {shapes.gpus[unknown][0]:g} GPUs",
            where="gpus",
            hint=f"use one of {', '.join(str(n) for n in series.gpus)}",
        )
    place = np.searchsorted(known, shapes.gpus)
    return sum_times(
        shapes,
        np.array(series.own_below, dtype=np.float64)[place],
        (np.array(series.nccl_share)[place], np.array(series.simple_share)[place]),
        series.coefficients.vector(),
        None if series.eager is None else series.eager.vector(),
    )


def runs_own_kernel(series: CustomAllReduceSeries, shapes: SumShapes) -> np.ndarray:
    """Return which sums the library runs by its own kernel, and not by NCCL."""
    place = np.searchsorted(np.array(series.gpus, dtype=np.float64), shapes.gpus)
    place = np.minimum(place, len(series.gpus) - 1)
    return shapes.message_bytes < np.array(series.own_below, dtype=np.float64)[place]


def custom_all_reduce_limits(series: CustomAllReduceSeries, shapes: SumShapes) -> Limits:
    """Return for each size which sums are within the range of a series."""
    known = np.isin(shapes.gpus, np.array(series.gpus, dtype=np.float64))
    return [
        (f"GPUs are one of {', '.join(str(count) for count in series.gpus)}", known),
        limit("bytes", shapes.message_bytes, series.bytes),
    ]


MIB: Final = 2**20
OWN_BELOW: Final = {
    "ampere": {2: 8 * MIB, 4: 8 * MIB, 6: 8 * MIB, 8: 8 * MIB},
    "hopper": {2: 8 * MIB, 4: 8 * MIB, 6: MIB // 2, 8: MIB // 4},
    "blackwell": {2: 2 * MIB, 4: 2 * MIB, 6: MIB, 8: MIB},
}
"""Generation -> number of GPUs -> bytes below which vLLM runs its own kernel
(all_reduce_utils.py). Nowhere does it do so from 8 MiB on."""
