"""Energy of a stack's commands: bits moved times the cited energy of every segment they cross.

A bit that a unit reads crosses the segments between its cell and the unit. The segments are
activate and cell, which every bit crosses; from the column to the bank group; from the bank group
to the global I/O; the TSVs to the buffer die; and the interposer to the host. A bit for a unit per
bank crosses only the first two, a bit for a unit on the buffer die all but the interposer
(reference/system-model.md, energy).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from attacc.documents import Presets, PresetSpec
from attacc.errors import InputError
from attacc.hardware.dram import Organization
from attacc.hardware.placement import Placement
from attacc.pim.mapping.geometry import KeyLayout
from attacc.pim.timing.engine import TimedRun
from attacc.units import BITS_PER_BYTE, Picojoules, PicojoulesPerBit, Quantity, Watts

_Segment = Annotated[float, Quantity("picojoules per bit", "0 pJ/b")]
"""Energy of a segment between a unit and the buffer die; 0 where a stack has no such segment."""

SOFTMAX_OPERATIONS: Final = 5
"""Operations of the softmax per score (reference/system-model.md). Partial scores of keys that are
cut into slices take an addition on the buffer die for each slice after the first, at the same
energy per operation."""


class DramEnergy(PresetSpec):
    """Energy per bit of every segment of a stack's data path, and other energies of a stack.

    Attributes:
        activate: opening the row, per bit read from it.
        cell: sensing and driving to the column decoder.
        column_to_bank_group: from the column decoder to the bank group's multiplexer.
        bank_group_to_io: from the bank group's multiplexer to the global I/O of the die.
        tsv: through the stack to the buffer die.
        interposer: from the buffer die to the host.
        multiply_add: one multiply and add of a unit.
        activate_row: opening and closing one row of one bank, however many bits are read from
            it; where it is given, commands are charged `activate_row` in place of `activate`.
        standby: power of one idle rank of a pseudo-channel with its banks open.
        standby_closed: power of one idle rank of a pseudo-channel with its banks precharged.
        refresh: one all-bank refresh of a pseudo-channel, in addition to standby.
    """

    activate: PicojoulesPerBit
    cell: PicojoulesPerBit
    column_to_bank_group: _Segment
    bank_group_to_io: _Segment
    tsv: _Segment
    interposer: PicojoulesPerBit
    multiply_add: Picojoules
    activate_row: Picojoules | None = None
    standby: Watts | None = None
    standby_closed: Watts | None = None
    refresh: Picojoules | None = None

    def source_of(self, *fields: str) -> str:
        """Return where the numbers of some fields come from."""
        unknown = f"preset {self.name}, without a source"
        named = (self.sources.get(f, self.sources.get("default", unknown)) for f in fields)
        return "; ".join(dict.fromkeys(named))

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


DRAM_ENERGIES: Final = Presets("energy", DramEnergy, "attacc.pim.energy", "presets")


@dataclass(frozen=True, slots=True)
class AttentionEnergy:
    """Energy of the attention of one stack, by component.

    Attributes:
        activate_pj: opening rows.
        cell_pj: reading cells.
        read_path_pj: from the banks to the units.
        multiply_pj: multiplies and adds of the units.
        move_pj: queries, scores, probabilities and contexts between units, buffer die and host.
        softmax_pj: operations of the softmax, and additions of partial scores.
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


@dataclass(frozen=True, slots=True)
class CommandCosts:
    """Energy of single commands of one channel, for units at one placement.

    Attributes:
        open_row_pj: one activation of all banks that a multiply reads, the precharge included; 0
            where activation is charged per bit read.
        activate_pj: share of one multiply in the opening of its rows; 0 where activation is
            charged per row.
        cell_pj: reading of cells by one multiply.
        read_path_pj: way of one multiply's bits from the banks to the units.
        multiply_pj: all multiplies and adds of the units in one multiply command.
        write_pj: one WRGB, from the host to the units.
        move_pj: one MVSB or MVGB, between units and buffer die.
    """

    open_row_pj: float
    activate_pj: float
    cell_pj: float
    read_path_pj: float
    multiply_pj: float
    write_pj: float
    move_pj: float


def command_costs(
    organization: Organization,
    placement: Placement,
    energy: DramEnergy,
    *,
    banks_per_multiply: int,
    elements_per_column: int,
    queries_per_read: float = 1,
) -> CommandCosts:
    """Return the energy of single commands.

    Args:
        organization: the stack.
        placement: where its units sit.
        energy: energy per event.
        banks_per_multiply: banks of a channel that one multiply command reads.
        elements_per_column: elements that one column access of a bank holds.
        queries_per_read: queries that every column is multiplied with once it is read; a mean if
            reads differ in it.

    Raises:
        InputError: a read serves less than one query.
    """
    if not queries_per_read >= 1:
        raise InputError(
            f"queries_per_read = {queries_per_read:g} is less than 1",
            hint="every column that is read is multiplied at least once",
        )
    bits = banks_per_multiply * organization.access_bytes * BITS_PER_BYTE
    bits_per_move = organization.pseudo_channels * organization.access_bytes * BITS_PER_BYTE
    inner = energy.unit_to_buffer_die(placement)
    by_row = energy.activate_row is not None
    return CommandCosts(
        open_row_pj=banks_per_multiply * (energy.activate_row or 0.0),
        activate_pj=0.0 if by_row else bits * energy.activate,
        cell_pj=bits * energy.cell,
        read_path_pj=bits * energy.cell_to_unit(placement),
        multiply_pj=banks_per_multiply
        * elements_per_column
        * queries_per_read
        * energy.multiply_add,
        write_pj=bits_per_move * (inner + energy.interposer),
        move_pj=bits_per_move * inner,
    )


def attention_energy(
    run: TimedRun,
    layout: KeyLayout,
    scores: int,
    energy: DramEnergy,
    *,
    banks_per_multiply: int,
    queries_per_read: float = 1,
) -> AttentionEnergy:
    """Cost the commands that a stack issued for attention, and its softmax.

    Refresh and standby are not among them: see `attacc.pim.energy.power`.

    Args:
        run: the commands.
        layout: how a key lies in the banks.
        scores: number of scores: the keys of all query heads. The softmax takes each score once.
        energy: energy per event.
        banks_per_multiply: banks that one multiply command reads.
        queries_per_read: queries that every column is multiplied with once it is read; a mean if
            reads differ in it.

    Raises:
        InputError: a read serves less than one query.
    """
    costs = command_costs(
        layout.organization,
        layout.placement,
        energy,
        banks_per_multiply=banks_per_multiply,
        elements_per_column=layout.elements_per_column,
        queries_per_read=queries_per_read,
    )
    multiplies = sum(run.count(name) for name in ("MACAB", "MACSB", "MACPB"))
    activations = sum(run.count(name) for name in ("ACTAB", "ACTSB", "ACTPB"))
    moves = run.count("MVSB") + run.count("MVGB")
    return AttentionEnergy(
        activate_pj=multiplies * costs.activate_pj + activations * costs.open_row_pj,
        cell_pj=multiplies * costs.cell_pj,
        read_path_pj=multiplies * costs.read_path_pj,
        multiply_pj=multiplies * costs.multiply_pj,
        move_pj=run.count("WRGB") * costs.write_pj + moves * costs.move_pj,
        softmax_pj=scores * (SOFTMAX_OPERATIONS + layout.key_slices - 1) * energy.multiply_add / 2,
    )
