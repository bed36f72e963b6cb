"""Rates of AttAccs, for cost models of products that GPUs and AttAccs share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AttaccRates:
    """Rates and energies of one AttAcc device in products with weights, for co-processing.

    Attributes:
        interface_bytes_per_s: bandwidth between all stacks of the device and the outside.
        internal_bytes_per_s: bandwidth at which the units of all stacks read weights.
        read_pj_per_byte: energy of moving a byte from the cells to the units.
        multiply_add_pj: energy of one multiplication and one addition in a unit.
    """

    interface_bytes_per_s: float
    internal_bytes_per_s: float
    read_pj_per_byte: float
    multiply_add_pj: float
