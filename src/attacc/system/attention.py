"""What the step needs to know of attention on AttAcc, from those who time and weigh it."""

from __future__ import annotations

from dataclasses import dataclass

from attacc.models.operators import Attention, Pointwise
from attacc.system.costs import EnergyBreakdown
from attacc.units import NS_PER_S


@dataclass(frozen=True, slots=True)
class AttaccRates:
    """What one AttAcc device does besides attention, for co-processing.

    Attributes:
        interface_bytes_per_s: bandwidth between its stacks and the outside, all stacks together.
        internal_bytes_per_s: bandwidth at which its units read weights, all stacks together.
        read_pj_per_byte: energy of a byte's way from the cells to the units.
        multiply_add_pj: energy of one multiplication and one addition in a unit.
    """

    interface_bytes_per_s: float
    internal_bytes_per_s: float
    read_pj_per_byte: float
    multiply_add_pj: float


@dataclass(frozen=True, slots=True)
class AttaccAttention:
    """Decode attention of one layer on all AttAccs.

    Attributes:
        time_ns: of the stack that finishes last.
        energy: of all stacks together: cells and internal moves as DRAM, units as ALU.
        softmax_ns: softmax that is not part of ``time_ns``. It hides other work, and takes no time
            of its own, as in the published model (`published_softmax_ns`); 0 if it is part.
    """

    time_ns: float
    energy: EnergyBreakdown
    softmax_ns: float = 0.0


def published_softmax_ns(
    softmax: Pointwise, rates: AttaccRates, gpus_per_device: float = 1.0
) -> float:
    """Return the softmax time of one layer on AttAcc, as the published model estimates it.

    The larger of 5 operations per score, at one per byte of interface bandwidth and twice that
    for one-byte elements, and of reading and writing the scores over the interface.

    Args:
        softmax: the softmax of one layer on one GPU.
        rates: of one AttAcc device.
        gpus_per_device: how many GPUs share one AttAcc device.
    """
    scores = softmax.m * softmax.n * softmax.count * gpus_per_device
    widths = 2 / softmax.element.bytes
    operations_s = 5 * scores / (rates.interface_bytes_per_s * widths)
    moves_s = 2 * scores * softmax.element.bytes / rates.interface_bytes_per_s
    return max(operations_s, moves_s) * NS_PER_S


def query_bytes(op: Attention) -> float:
    """Return what one GPU sends for decode attention: new queries, keys and values of a layer."""
    queries = op.heads * op.activation.bytes
    new_keys_and_values = 2 * op.kv_heads * op.kv.bytes
    return op.batch * op.queries * op.head_dim * (queries + new_keys_and_values)


def context_bytes(op: Attention) -> float:
    """Return what one GPU gets back from decode attention: the contexts of a layer."""
    return op.batch * op.queries * op.head_dim * op.heads * op.activation.bytes
