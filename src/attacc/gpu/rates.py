"""What cost models need to know of the AttAccs that share their work."""

from __future__ import annotations

from dataclasses import dataclass


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
