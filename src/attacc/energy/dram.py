"""Energy of a stack's commands: bits moved times the cited energy of every segment they cross.

A bit that a unit reads crosses the segments between its cell and the unit: activate and cell
always; from a column to its bank group; from there to the global I/O; the TSVs to the buffer die;
the interposer to the host. A unit per bank saves all but the first two, a unit on the buffer die
all but the last (reference/system-model.md, energy).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from attacc.documents import Presets, PresetSpec
from attacc.hardware.placement import Placement
from attacc.mapping.head import HeadLayout
from attacc.timing.engine import TimedRun
from attacc.units import BITS_PER_BYTE, Picojoules, PicojoulesPerBit

SOFTMAX_OPERATIONS: Final = 5
"""Operations of the softmax per score (reference/system-model.md)."""


class DramEnergy(PresetSpec):
    """Energy per bit of every segment of a stack's data path.

    Attributes:
        activate: opening the row, per bit read from it.
        cell: sensing and driving to the column decoder.
        column_to_bank_group: from the column decoder to the bank group's multiplexer.
        bank_group_to_io: from there to the global I/O of the die.
        tsv: through the stack to the buffer die.
        interposer: from the buffer die to the host.
        multiply_add: one multiply and add of a unit.
    """

    activate: PicojoulesPerBit
    cell: PicojoulesPerBit
    column_to_bank_group: PicojoulesPerBit
    bank_group_to_io: PicojoulesPerBit
    tsv: PicojoulesPerBit
    interposer: PicojoulesPerBit
    multiply_add: Picojoules

    def unit_to_buffer_die(self, placement: Placement) -> float:
        """Return the energy per bit, in pJ, between a unit and the buffer die."""
        return {
            Placement.BANK: self.column_to_bank_group + self.bank_group_to_io + self.tsv,
            Placement.BANKGROUP: self.bank_group_to_io + self.tsv,
            Placement.BUFFER: 0.0,
        }[placement]

    def cell_to_unit(self, placement: Placement) -> float:
        """Return the energy per bit, in pJ, between the column decoder and a unit."""
        whole = self.unit_to_buffer_die(Placement.BANK)
        return whole - self.unit_to_buffer_die(placement)


DRAM_ENERGIES: Final = Presets("energy", DramEnergy, "attacc.energy", "presets")


@dataclass(frozen=True, slots=True)
class AttentionEnergy:
    """Energy of the attention of one stack, by component.

    Attributes:
        activate_pj: opening rows.
        cell_pj: reading cells.
        read_path_pj: from the banks to the units.
        multiply_pj: multiplies and adds of the units.
        move_pj: queries, scores, probabilities and contexts between units, buffer die and host.
        softmax_pj: operations of the softmax.
    """

    activate_pj: float
    cell_pj: float
    read_path_pj: float
    multiply_pj: float
    move_pj: float
    softmax_pj: float

    @property
    def total_pj(self) -> float:
        """Sum of all components."""
        return (
            self.activate_pj
            + self.cell_pj
            + self.read_path_pj
            + self.multiply_pj
            + self.move_pj
            + self.softmax_pj
        )


def attention_energy(
    run: TimedRun, layout: HeadLayout, heads: int, energy: DramEnergy, *, banks_per_multiply: int
) -> AttentionEnergy:
    """Cost the commands that a stack issued for a number of equal heads.

    Args:
        run: the commands.
        layout: the shape of every head.
        heads: heads on the stack; each has its softmax once.
        energy: energy per event.
        banks_per_multiply: banks that one multiply command reads.
    """
    o = layout.organization
    multiplies = sum(run.count(name) for name in ("MACAB", "MACSB", "MACPB"))
    columns_read = multiplies * banks_per_multiply
    bits_read = columns_read * o.access_bytes * BITS_PER_BYTE
    bits_per_move = o.pseudo_channels * o.access_bytes * BITS_PER_BYTE
    inner = energy.unit_to_buffer_die(layout.placement)
    from_host = run.count("WRGB") * bits_per_move * (inner + energy.interposer)
    inside = (run.count("MVSB") + run.count("MVGB")) * bits_per_move * inner
    return AttentionEnergy(
        activate_pj=bits_read * energy.activate,
        cell_pj=bits_read * energy.cell,
        read_path_pj=bits_read * energy.cell_to_unit(layout.placement),
        multiply_pj=columns_read * layout.elements_per_column * energy.multiply_add,
        move_pj=from_host + inside,
        softmax_pj=heads * layout.length * SOFTMAX_OPERATIONS * energy.multiply_add / 2,
    )
