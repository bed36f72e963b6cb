"""Power of a stack: what its commands cost over time, and a multiply cadence from a budget.

Power is the energy of the commands (`attacc.pim.energy.dram`), of refresh and of standby, over
time. The power-limited cadences of the device presets rest on a statement of AttAcc's authors about
IDD7. `cadence_from_budget` is the alternative: it computes a cadence in cycles from a budget in
watts and energies. docs/model/power.md compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isfinite
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from attacc.errors import InputError
from attacc.hardware.dram import (
    DERIVED_CADENCE,
    Cadence,
    DramDevice,
    OrdinaryFamily,
    RefreshMode,
)
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.energy.dram import CommandCosts, DramEnergy, command_costs
from attacc.pim.mapping.geometry import HeadLayout
from attacc.pim.program.schedule import head_commands
from attacc.pim.timing.tables import Code
from attacc.units import BITS_PER_BYTE, NS_PER_S, PJ_PER_J

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

LONGEST_CADENCE: Final = 10_000
"""Most cycles between two multiplies of a device (`attacc.hardware.dram.Cadence`)."""

_PJ_PER_NS: Final = NS_PER_S / PJ_PER_J
"""Watts of one picojoule per nanosecond."""


@dataclass(frozen=True, slots=True)
class CommandEnergy:
    """Energy of one command of one channel.

    Attributes:
        command: name of the command, as in "MACAB".
        energy_pj: energy of one command.
        source: where the numbers come from.
    """

    command: str
    energy_pj: float
    source: str


@dataclass(frozen=True, slots=True)
class StackEnergies:
    """Energies of a stack's commands, and its standby power.

    Attributes:
        commands: energy of each command, by `Code`.
        background_w: standby of all ranks of all channels.
        background_source: where the standby power comes from.
    """

    commands: tuple[CommandEnergy, ...]
    background_w: float
    background_source: str


@dataclass(frozen=True, slots=True)
class SustainedPower:
    """Power of a stack whose channels all multiply at a steady cadence.

    Attributes:
        cycles: cycles between two multiplies of a channel.
        activate_w: opening of rows, at the rate at which multiplies read them to their ends.
        read_w: reading from the cells to the units.
        multiply_w: multiplies and adds of the units.
        move_w: moves that belong to the multiplies of a head; 0 without a head.
        refresh_w: refresh of all pseudo-channels, in addition to standby.
        background_w: standby.
    """

    cycles: int
    activate_w: float
    read_w: float
    multiply_w: float
    move_w: float
    refresh_w: float
    background_w: float

    @property
    def dynamic_w(self) -> float:
        """Power in proportion to the rate of multiplies; a longer cadence reduces it."""
        return self.activate_w + self.read_w + self.multiply_w + self.move_w

    @property
    def total_w(self) -> float:
        """Sum of all components."""
        return self.dynamic_w + self.refresh_w + self.background_w


@dataclass(frozen=True, slots=True)
class PowerCadence:
    """The least cycles between two multiplies of a channel that keep a stack within a budget.

    Attributes:
        placement: where the units sit.
        budget_w: power budget of the stack.
        energies: name of the energy preset.
        queries_per_read: queries that every column is multiplied with once it is read.
        cycles: cycles between two multiplies.
        unlimited_cycles: cycles between two multiplies without a budget.
        power: power at this cadence; at most the budget.
    """

    placement: Placement
    budget_w: float
    energies: str
    queries_per_read: int
    cycles: int
    unlimited_cycles: int
    power: SustainedPower

    @property
    def binding(self) -> bool:
        """Whether the budget makes the cadence longer than without a budget."""
        return self.cycles > self.unlimited_cycles


@dataclass(frozen=True, eq=False)
class PowerExcess:
    """The windows in which a run takes more power than its budget.

    Attributes:
        budget_w: power budget of the stack.
        peak_w: power of the worst window.
        windows: (k,) numbers of the windows above the budget, in order.
        first_ns: begin of the first of these windows.
        time_share: share of these windows in the run's time.
    """

    budget_w: float
    peak_w: float
    windows: I64
    first_ns: float
    time_share: float


@dataclass(frozen=True, eq=False)
class PowerTrace:
    """Power of a stack over the time of a run, averaged over windows of equal length.

    Attributes:
        window_cycles: cycles of a window; the last one may be shorter.
        duration_ns: (windows,) duration of each window.
        power_w: (windows,) mean power of each window, standby included.
        commands_pj: energy of all commands.
        background_pj: energy of standby.
        budget_w: power budget of the stack, if there is one.
        excess: the windows above the budget; None where it is kept, or without a budget.
    """

    window_cycles: int
    duration_ns: F64
    power_w: F64
    commands_pj: float
    background_pj: float
    budget_w: float | None
    excess: PowerExcess | None

    @property
    def energy_pj(self) -> float:
        """Energy of the run."""
        return self.commands_pj + self.background_pj

    @property
    def time_ns(self) -> float:
        """Time of the run."""
        return float(self.duration_ns.sum())

    @property
    def mean_w(self) -> float:
        """Mean power over the run."""
        return self.energy_pj / self.time_ns * _PJ_PER_NS

    @property
    def peak_w(self) -> float:
        """Mean power of the window with the highest power."""
        return float(self.power_w.max())

    @property
    def peak_window(self) -> int:
        """Number of the first window with the highest power."""
        return int(self.power_w.argmax())

    def to_dict(self, clock_ns: float) -> dict[str, Any]:
        """Return the trace as plain values.

        Args:
            clock_ns: period of the command clock.

        Returns:
            ``window_ns``, the time over which power is averaged; ``mean_w``; ``standby_w``, the
            power without any command; ``peak_w`` of the window with the highest power, and
            ``peak_at_ns``, its begin; ``budget_w``; ``above_budget_share`` of the time, None
            without a budget; ``windows_w``, the power of every window.
        """
        window_ns = self.window_cycles * clock_ns
        above = None
        if self.budget_w is not None:
            above = self.excess.time_share if self.excess is not None else 0.0
        return {
            "window_ns": window_ns,
            "mean_w": self.mean_w,
            "standby_w": self.background_pj / self.energy_pj * self.mean_w,
            "peak_w": self.peak_w,
            "peak_at_ns": self.peak_window * window_ns,
            "budget_w": self.budget_w,
            "above_budget_share": above,
            "windows_w": tuple(self.power_w.tolist()),
        }


@dataclass(frozen=True, slots=True)
class Standby:
    """Power of a stack whose units do nothing.

    Attributes:
        closed_w: standby with all banks precharged, and refresh.
        open_w: what open rows in all banks draw in addition.
    """

    closed_w: float
    open_w: float

    def times(self, stacks: int) -> Standby:
        """Return the power of several stacks."""
        return Standby(stacks * self.closed_w, stacks * self.open_w)


def standby(device: DramDevice, energies: DramEnergy) -> Standby:
    """Return the power of a stack whose units do nothing, refresh included.

    Raises:
        InputError: the energies say nothing of standby or refresh.
    """
    closed = _given(energies, "standby_closed", energies.standby_closed)
    idle_w = _ranks(device) * closed
    return Standby(
        closed_w=idle_w + refresh_w(device, energies),
        open_w=background_w(device, energies) - idle_w,
    )


def _ranks(device: DramDevice) -> int:
    """Return the ranks of all pseudo-channels of a stack."""
    o = device.organization
    return o.channels * o.pseudo_channels * o.ranks


def background_w(device: DramDevice, energies: DramEnergy) -> float:
    """Return the power of an idle stack with open rows and without refresh.

    Raises:
        InputError: the energies have no standby power.
    """
    return _ranks(device) * _given(energies, "standby", energies.standby)


def refresh_w(
    device: DramDevice, energies: DramEnergy, *, temperature_c: float | None = None
) -> float:
    """Return the power of refreshing a stack, in addition to standby.

    Args:
        device: the stack.
        energies: energy per event.
        temperature_c: temperature of the device; None for the usual rate of refresh.

    Raises:
        InputError: the energies say nothing of refresh.
    """
    o = device.organization
    interval = device.parameters(power_limited=False, temperature_c=temperature_c)["nREFI"]
    # In both modes of refresh, every bank is refreshed once in an interval.
    refreshes_per_ns = o.channels * o.pseudo_channels / (interval * device.clock_ns)
    return refreshes_per_ns * _given(energies, "refresh", energies.refresh) * _PJ_PER_NS


def command_energies(
    device: DramDevice,
    placement: Placement,
    energies: DramEnergy,
    *,
    queries_per_read: float = 1,
    element: ElementType = ElementType.FP16,
    softmax_pj_per_command: float = 0.0,
) -> StackEnergies:
    """Return the energy of one command of each kind.

    The energy of an activation includes that of the precharge that ends it. An ordinary read or
    write moves one access of one bank between its cells and the host.

    Args:
        device: the stack.
        placement: where its units sit.
        energies: energy per event.
        queries_per_read: queries that every column is multiplied with once it is read; a mean if
            reads differ in it.
        element: element type of keys and values.
        softmax_pj_per_command: energy of one SFM, which depends on the length of its head.

    Raises:
        InputError: the energies say nothing of refresh or standby, or a read serves less than
            one query.
    """
    costs = _costs(device, placement, energies, queries_per_read, element)
    family = device.rule_set.families[placement]
    read = costs.activate_pj + costs.cell_pj + costs.read_path_pj + costs.multiply_pj
    opening = "activate" if energies.activate_row is None else "activate_row"
    path = ("column_to_bank_group", "bank_group_to_io", "tsv")
    priced: dict[Code, tuple[str, float, tuple[str, ...]]] = {
        Code.ACTIVATE: (family.activate, costs.open_row_pj, (opening,)),
        Code.MULTIPLY: (family.multiply, read, (opening, "cell", *path, "multiply_add")),
        Code.PRECHARGE: (family.precharge, 0.0, (opening,)),
        Code.PRECHARGE_ALL: (device.rule_set.precharge_all, 0.0, (opening,)),
        Code.REFRESH: (*_refresh(device, energies), ("refresh",)),
        Code.WRGB: ("WRGB", costs.write_pj, (*path, "interposer")),
        Code.MVSB: ("MVSB", costs.move_pj, path),
        Code.MVGB: ("MVGB", costs.move_pj, path),
        Code.SFM: ("SFM", softmax_pj_per_command, ("multiply_add",)),
    }
    # Rules without ordinary traffic have no names for it, and never issue it.
    ordinary = device.rule_set.ordinary or OrdinaryFamily(
        activate="ACT", read="RD", write="WR", precharge="PRE"
    )
    to_host = energies.cell + energies.unit_to_buffer_die(Placement.BANK) + energies.interposer
    if energies.activate_row is None:
        to_host += energies.activate
    access_pj = device.organization.access_bytes * BITS_PER_BYTE * to_host
    segments = (opening, "cell", *path, "interposer")
    priced |= {
        Code.READ: (ordinary.read, access_pj, segments),
        Code.WRITE: (ordinary.write, access_pj, segments),
        Code.ACTIVATE_BANK: (ordinary.activate, energies.activate_row or 0.0, (opening,)),
        Code.PRECHARGE_BANK: (ordinary.precharge, 0.0, (opening,)),
    }
    return StackEnergies(
        commands=tuple(
            CommandEnergy(name, energy_pj, energies.source_of(*fields))
            for name, energy_pj, fields in (priced[code] for code in Code)
        ),
        background_w=background_w(device, energies),
        background_source=energies.source_of("standby"),
    )


def sustained_power(
    device: DramDevice,
    placement: Placement,
    cycles: int,
    energies: DramEnergy,
    queries_per_read: int = 1,
    *,
    layout: HeadLayout | None = None,
    temperature_c: float | None = None,
) -> SustainedPower:
    """Return the power of a stack whose channels all multiply once in a number of cycles.

    Every row is read to its end before the next one is opened, and neither the opening of a row nor
    a refresh delays a multiply. So a real run takes less power in the long term.

    Args:
        device: the stack.
        placement: where its units sit.
        cycles: cycles between two multiplies of a channel.
        energies: energy per event.
        queries_per_read: queries that every column is multiplied with once it is read.
        layout: a head whose moves are counted, too; without a head there are no moves, and
            elements are fp16.
        temperature_c: temperature of the device, on which the rate of refresh depends; None for
            its usual rate.

    Raises:
        InputError: fewer than 1 cycle; the energies say nothing of refresh or standby; or a read
            serves less than one query.
    """
    if cycles < 1:
        raise InputError(f"a multiply every {cycles} cycles: there is at least 1 between two")
    o = device.organization
    element = ElementType.FP16 if layout is None else layout.element
    costs = _costs(device, placement, energies, queries_per_read, element)
    per_pj = o.channels / (cycles * device.clock_ns) * _PJ_PER_NS
    moves = 0.0 if layout is None else queries_per_read * _moves_pj_per_multiply(layout, costs)
    return SustainedPower(
        cycles=cycles,
        activate_w=(costs.activate_pj + costs.open_row_pj / o.columns) * per_pj,
        read_w=(costs.cell_pj + costs.read_path_pj) * per_pj,
        multiply_w=costs.multiply_pj * per_pj,
        move_w=moves * per_pj,
        refresh_w=refresh_w(device, energies, temperature_c=temperature_c),
        background_w=background_w(device, energies),
    )


def cadence_from_budget(
    device: DramDevice,
    placement: Placement,
    budget_w: float,
    energies: DramEnergy,
    queries_per_read: int = 1,
    *,
    layout: HeadLayout | None = None,
    temperature_c: float | None = None,
) -> PowerCadence:
    """Return the least cycles between two multiplies that keep a stack within a power budget.

    Args:
        device: the stack.
        placement: where its units sit.
        budget_w: power budget of the whole stack, standby and refresh included.
        energies: energy per event.
        queries_per_read: queries that every column is multiplied with once it is read.
        layout: as for `sustained_power`.
        temperature_c: as in `sustained_power`.

    Raises:
        InputError: the budget is not positive, is too small for standby and refresh, or allows
            less than one multiply in 10,000 cycles; or as for `sustained_power`.
    """
    if not (isfinite(budget_w) and budget_w > 0):
        raise InputError(
            f"a power budget of {budget_w:g} W is not positive", hint="give watts per stack"
        )

    def power(cycles: int) -> SustainedPower:
        return sustained_power(
            device,
            placement,
            cycles,
            energies,
            queries_per_read,
            layout=layout,
            temperature_c=temperature_c,
        )

    bits = ElementType.FP16.bits if layout is None else layout.element.bits
    unlimited = _unlimited_cycles(device, placement, queries_per_read, bits)
    at_most = power(unlimited)
    if at_most.total_w <= budget_w:
        cycles = unlimited
    else:
        fixed_w = at_most.refresh_w + at_most.background_w
        least_w = power(LONGEST_CADENCE).total_w
        if least_w > budget_w:
            raise InputError(
                f"a power budget of {budget_w:g} W does not pay for multiplies: the stack takes "
                f"{fixed_w:.2f} W without one, and {at_most.total_w:.2f} W with one every "
                f"{unlimited} cycles",
                where=device.name,
                hint=f"give more than {least_w:.2f} W",
            )
        cycles = ceil(at_most.dynamic_w * unlimited / (budget_w - fixed_w))
        # The division may have rounded to the other side of a whole number.
        while power(cycles).total_w > budget_w:
            cycles += 1
        while cycles > unlimited and power(cycles - 1).total_w <= budget_w:
            cycles -= 1
    return PowerCadence(
        placement=placement,
        budget_w=budget_w,
        energies=energies.name,
        queries_per_read=queries_per_read,
        cycles=cycles,
        unlimited_cycles=unlimited,
        power=power(cycles),
    )


def with_power_cadence(device: DramDevice, cadence: PowerCadence) -> DramDevice:
    """Return the device with the cadence of a budget as its power-limited one.

    Raises:
        InputError: the budget needs a longer cadence for units on the buffer die, which always
            have the cadence of their bus.
    """
    if cadence.placement is Placement.BUFFER:
        if not cadence.binding:
            return device
        raise InputError(
            f"a power budget of {cadence.budget_w:g} W asks for a multiply every {cadence.cycles} "
            "cycles, but units on the buffer die have no cadence to stretch: one follows every "
            f"{cadence.unlimited_cycles}",
            where=device.name,
            hint="give more watts, or put the units per bank or bank group",
        )
    name = "nCCDAB" if cadence.placement is Placement.BANK else "nCCDSB"
    fields = {field: getattr(device, field) for field in DramDevice.model_fields}
    # Where the budget does not bind, the device adds the cadence of several queries per read.
    cycles = cadence.cycles if cadence.binding else getattr(device.unlimited, name)
    limited = Cadence.model_validate(device.power_limited.model_dump() | {name: cycles})
    source = f"{cadence.budget_w:g} W per stack with the energies of {cadence.energies}"
    sources = device.sources | {f"power_limited.{name}": source}
    return DramDevice.model_validate(fields | {"power_limited": limited, "sources": sources})


def windowed_power(
    windows: I64,
    device: DramDevice,
    placement: Placement,
    energies: DramEnergy,
    window_cycles: int,
    *,
    cycles: int,
    budget_w: float | None = None,
    queries_per_read: float = 1,
    element: ElementType = ElementType.FP16,
    softmax_pj_per_command: float = 0.0,
) -> PowerTrace:
    """Return the power of a run over time.

    A command's energy counts for the window in which it issues.

    Args:
        windows: (windows, codes) commands that issued over all channels in each window of
            `window_cycles` cycles, as in `TimedRun.windows`.
        device: the stack.
        placement: where its units sit.
        energies: energy per event.
        window_cycles: cycles of a window.
        cycles: cycles of the whole run; the last window may be shorter than the others.
        budget_w: power budget of the stack, if there is one.
        queries_per_read: as in `command_energies`.
        element: as in `command_energies`.
        softmax_pj_per_command: as in `command_energies`.

    Raises:
        InputError: a window has less than one cycle; the windows do not belong to the run; the
            budget is not positive; or as for `command_energies`.
    """
    if window_cycles < 1:
        raise InputError(
            f"windows of {window_cycles} cycles hold no command", hint="give at least 1 cycle"
        )
    expected = (-(-cycles // window_cycles), len(Code))
    if cycles < 1 or windows.shape != expected:
        raise InputError(
            f"counts of shape {windows.shape} are not those of {cycles} cycles in windows of "
            f"{window_cycles}: those have shape {expected}",
            hint="count and cost a run with the same windows",
        )
    if budget_w is not None and not (isfinite(budget_w) and budget_w > 0):
        raise InputError(
            f"a power budget of {budget_w:g} W is not positive", hint="give watts per stack"
        )
    stack = command_energies(
        device,
        placement,
        energies,
        queries_per_read=queries_per_read,
        element=element,
        softmax_pj_per_command=softmax_pj_per_command,
    )
    energy_pj = np.array([command.energy_pj for command in stack.commands])
    duration_ns = np.full(len(windows), window_cycles * device.clock_ns)
    duration_ns[-1] = (cycles - (len(windows) - 1) * window_cycles) * device.clock_ns
    power_w = (windows @ energy_pj) / duration_ns * _PJ_PER_NS + stack.background_w
    return PowerTrace(
        window_cycles=window_cycles,
        duration_ns=duration_ns,
        power_w=power_w,
        commands_pj=float(windows.sum(axis=0) @ energy_pj),
        background_pj=stack.background_w * cycles * device.clock_ns / _PJ_PER_NS,
        budget_w=budget_w,
        excess=None if budget_w is None else _excess(power_w, duration_ns, budget_w),
    )


def _excess(power_w: F64, duration_ns: F64, budget_w: float) -> PowerExcess | None:
    above = np.flatnonzero(power_w > budget_w)
    if not len(above):
        return None
    return PowerExcess(
        budget_w=budget_w,
        peak_w=float(power_w.max()),
        windows=above,
        first_ns=float(duration_ns[: above[0]].sum()),
        time_share=float(duration_ns[above].sum() / duration_ns.sum()),
    )


def _costs(
    device: DramDevice,
    placement: Placement,
    energies: DramEnergy,
    queries_per_read: float,
    element: ElementType,
) -> CommandCosts:
    o = device.organization
    return command_costs(
        o,
        placement,
        energies,
        banks_per_multiply=device.banks_per_command(placement),
        elements_per_column=o.access_bytes * BITS_PER_BYTE // element.bits,
        queries_per_read=queries_per_read,
    )


def _moves_pj_per_multiply(layout: HeadLayout, costs: CommandCosts) -> float:
    """Return the energy of all moves of a head, divided by its number of multiplies."""
    # Groups of moves are the same for every length; the shortest head has one of each.
    group = head_commands(layout.head(layout.sequence_parts))
    moves = (
        layout.key_slices * layout.score_groups * len(group.score_moves)
        + layout.probability_words * len(group.probabilities)
        + layout.context_slices * len(group.context_moves)
    )
    multiplies = layout.score_multiplies + layout.context_multiplies
    return (len(group.q) * costs.write_pj + moves * costs.move_pj) / multiplies


def _unlimited_cycles(
    device: DramDevice, placement: Placement, queries_per_read: int, element_bits: int
) -> int:
    parameters = device.parameters(
        power_limited=False, queries_per_read=queries_per_read, element_bits=element_bits
    )
    return {
        Placement.BANK: parameters["nCCDAB"],
        Placement.BANKGROUP: parameters["nCCDSB"],
        Placement.BUFFER: parameters[DERIVED_CADENCE],
    }[placement]


def _refresh(device: DramDevice, energies: DramEnergy) -> tuple[str, float]:
    """Return the refresh command of the device, and its energy."""
    rules, o = device.rule_set, device.organization
    energy_pj = _given(energies, "refresh", energies.refresh)
    if device.refresh.mode is RefreshMode.PER_BANK and rules.refresh_bank is not None:
        return rules.refresh_bank, energy_pj * o.pseudo_channels / o.banks_per_channel
    return rules.refresh, energy_pj


def _given(energies: DramEnergy, field: str, value: float | None) -> float:
    """Return an optional energy.

    Raises:
        InputError: the preset does not state it.
    """
    if value is None:
        raise InputError(
            f"energy preset {energies.name} does not say {field}: power needs it",
            hint=f"add {field} to the preset, or take another one",
        )
    return value
