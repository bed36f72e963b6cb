"""Claims about the energy of commands, and about power over time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from attacc.errors import EngineError
from attacc.hardware.dram import DRAMS, DramDevice
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.energy.dram import DRAM_ENERGIES, AttentionEnergy, attention_energy
from attacc.pim.energy.power import (
    cadence_from_budget,
    command_energies,
    sustained_power,
    windowed_power,
)
from attacc.pim.mapping.geometry import HeadLayout
from attacc.pim.program.schedule import attention_program
from attacc.pim.timing.engine import TimedRun, run
from attacc.pim.timing.tables import Code, resolve_timing
from attacc.study.claims.validation import (
    Check,
    Claim,
    Figure,
    Measured,
    Needs,
    Room,
    Tolerance,
    Unit,
)

DEVICE: Final = "hbm3-5.2"
PUBLISHED: Final = "fgdram-2017"
CURRENTS: Final = "hbm2-currents"
ACCESS_PJ_PER_BIT: Final = {
    Placement.BANK: 0.55,
    Placement.BANKGROUP: 1.56,
    Placement.BUFFER: 3.29,
}
"""Energy of AttAcc's units per bit read (reference/system-model.md, energy)."""
HOST_PJ_PER_BIT: Final = 3.59
"""Energy of a host per bit read (reference/system-model.md, energy)."""
BUDGET_W: Final = 116.0
"""Power budget of a stack, as quoted of AttAcc (reference/attacc.md, second-hand)."""
WINDOWS: Final = (1, 333, 5000)
LENGTH: Final = 700
HEADS: Final = {Placement.BANK: 96, Placement.BANKGROUP: 32, Placement.BUFFER: 16}
"""Numbers of heads that make a run long enough for refreshes."""
ROUNDING: Final = Tolerance(
    1e-9, Unit.SHARE, "the same sum in another order: rounding of 64-bit numbers, and no more"
)


@dataclass(frozen=True)
class _Costed:
    """A run, and its energy.

    Attributes:
        device: the stack.
        layout: layout of its heads.
        timed: the run.
        energy: energy of its commands.
    """

    device: DramDevice
    layout: HeadLayout
    timed: TimedRun
    energy: AttentionEnergy

    @classmethod
    def of(cls, placement: Placement, energies: str, window_cycles: int = 0) -> _Costed:
        device = DRAMS.load(DEVICE)
        layout = HeadLayout(device.organization, placement, 128, ElementType.FP16, LENGTH)
        program = attention_program(layout, HEADS[placement], Schedule.COMPLETE)
        tables = resolve_timing(device, placement, power_limited=True)
        timed = run(program, tables, window_cycles=window_cycles)
        energy = attention_energy(
            timed,
            layout,
            HEADS[placement] * layout.length,
            DRAM_ENERGIES.load(energies),
            banks_per_multiply=device.banks_per_command(placement),
        )
        return cls(device, layout, timed, energy)


def access_energies() -> Measured:
    """Return how far sums of segments are from the published energies of an access."""
    energy = DRAM_ENERGIES.load(PUBLISHED)
    cells = energy.activate + energy.cell
    errors = [
        abs((cells + energy.cell_to_unit(placement)) / published - 1)
        for placement, published in ACCESS_PJ_PER_BIT.items()
    ]
    host = cells + energy.unit_to_buffer_die(Placement.BANK) + energy.interposer
    errors.append(abs(host / HOST_PJ_PER_BIT - 1))
    return Measured(max(errors), len(errors))


def windows_add_up() -> Measured:
    """Return how far the energy of windows is from that of commands, refreshes and standby."""
    errors: list[float] = []
    for placement in Placement:
        for name in (PUBLISHED, CURRENTS):
            energies = DRAM_ENERGIES.load(name)
            for window_cycles in WINDOWS:
                one = _Costed.of(placement, name, window_cycles)
                if one.timed.windows is None:
                    raise EngineError("a run counted no windows")
                trace = windowed_power(
                    one.timed.windows,
                    one.device,
                    placement,
                    energies,
                    window_cycles,
                    cycles=one.timed.cycles,
                    softmax_pj_per_command=one.energy.softmax_pj / one.timed.count("SFM"),
                )
                stack = command_energies(one.device, placement, energies)
                refresh_pj = stack.commands[Code.REFRESH].energy_pj * one.timed.count("REFab")
                standby_pj = stack.background_w * one.timed.time_ns * 1e3
                whole = one.energy.total_pj + refresh_pj + standby_pj
                in_windows = float((trace.power_w * trace.duration_ns).sum()) * 1e3
                errors.append(abs(in_windows / whole - 1))
    return Measured(max(errors), len(errors))


def runs_take_their_share() -> Measured:
    """Return how far a run's mean power is from P(n) times the time that multiplies take."""
    errors: list[float] = []
    energies = DRAM_ENERGIES.load(PUBLISHED)
    for placement in Placement:
        one = _Costed.of(placement, PUBLISHED)
        tables = resolve_timing(one.device, placement, power_limited=True)
        cycles = tables.multiply_interval
        steady = sustained_power(one.device, placement, cycles, energies, layout=one.layout)
        channels = one.device.organization.channels
        multiplies = one.timed.count(tables.names[Code.MULTIPLY]) / channels
        mean_w = (one.energy.total_pj - one.energy.softmax_pj) / one.timed.time_ns * 1e-3
        errors.append(abs(mean_w / (steady.dynamic_w * multiplies * cycles / one.timed.cycles) - 1))
    return Measured(max(errors), len(errors))


def rows_agree() -> Measured:
    """Return the deviation between two independent energies of opening a row."""
    published, currents = DRAM_ENERGIES.load(PUBLISHED), DRAM_ENERGIES.load(CURRENTS)
    o = DRAMS.load(DEVICE).organization
    by_bits = published.activate * o.columns * o.access_bytes * 8
    if currents.activate_row is None:
        raise EngineError(f"{CURRENTS} has no energy of a row")
    return Measured(
        abs(by_bits / currents.activate_row - 1),
        1,
        (
            Figure("a row by its bits", by_bits, Unit.PICOJOULES),
            Figure("by currents", currents.activate_row, Unit.PICOJOULES),
        ),
    )


def quoted_budget_does_not_bind() -> Measured:
    """Return the power of a stack at the cadence that its banks allow."""
    device, energies = DRAMS.load(DEVICE), DRAM_ENERGIES.load(PUBLISHED)
    free = cadence_from_budget(device, Placement.BANK, BUDGET_W, energies)
    if free.binding:
        raise EngineError(f"{BUDGET_W:g} W bind at {free.cycles} cycles")
    limited = resolve_timing(device, Placement.BANK, power_limited=True).multiply_interval
    published = sustained_power(device, Placement.BANK, limited, energies)
    return Measured(
        free.power.total_w,
        1,
        (
            Figure("cycles between multiplies", free.cycles, Unit.COUNT),
            Figure("in all", published.total_w, Unit.WATTS, f"at the published {limited} cycles"),
            Figure(
                "for multiplies and rows",
                published.dynamic_w,
                Unit.WATTS,
                f"at the published {limited} cycles",
            ),
        ),
    )


def _checks() -> Iterable[Check]:
    yield Check(
        Claim(
            id="energy-access",
            room=Room.ENERGY,
            statement="The segments that a bit crosses add up to the published energy of an "
            "access, for units at each placement and for a host.",
            data="0.55, 1.56 and 3.29 pJ/b for units, 3.59 for a host (AttAcc's system model, "
            "reference/system-model.md; segments of O'Connor et al., MICRO 2017)",
            tolerance=ROUNDING,
            limits="Figures of HBM2 in 2017, applied to HBM3. No silicon with units was measured "
            "in public.",
            tests=("tests/pim/energy/test_dram_energy.py",),
        ),
        measure=access_energies,
    )
    yield Check(
        Claim(
            id="energy-windows",
            room=Room.ENERGY,
            statement="Power over time adds up to the energy of the commands, the refreshes and "
            "standby, whatever the windows.",
            data="runs of 700 keys at three placements, with two energy presets, windows of 1, 333 "
            "and 5,000 cycles",
            tolerance=ROUNDING,
            limits="A sum that is right, of energies that may not be.",
            tests=("tests/pim/energy/test_power.py",),
        ),
        measure=windows_add_up,
    )
    yield Check(
        Claim(
            id="energy-steady-power",
            room=Room.ENERGY,
            statement="The mean power of a run's multiplies, rows and moves is that of a steady "
            "cadence n, P(n) of docs/model/power.md, times the share of the run that its "
            "multiplies "
            "take at n cycles each.",
            data="the same runs; P(n) from the energies of single commands, without refresh and "
            "standby",
            tolerance=ROUNDING,
            limits="With energies per bit. With those per row, heads shorter than a row cost more "
            "than P(n) says.",
            tests=("tests/pim/energy/test_power.py",),
        ),
        measure=runs_take_their_share,
    )
    yield Check(
        Claim(
            id="energy-row",
            room=Room.ENERGY,
            statement="Two independent sources agree on the energy of opening a row.",
            data="0.11 pJ per bit of a row of 1 KiB (O'Connor et al., MICRO 2017); IDD0 of "
            "DRAMsim3's HBM2 (reference/dram.md)",
            tolerance=Tolerance(
                0.15, Unit.SHARE, "one is a circuit model, the other a simulator's currents"
            ),
            limits="One figure of several; the energy per bit read differs more: 2.68 and 1.57 pJ "
            "to the I/O.",
            tests=("tests/pim/energy/test_power.py",),
        ),
        measure=rows_agree,
    )
    yield Check(
        Claim(
            id="power-budget",
            room=Room.ENERGY,
            statement="The 116 W quoted as a stack's budget do not explain the published cadence: "
            "with the published energies, units in the banks take less at the fastest cadence that "
            "the banks allow.",
            data="116 W (quoted of AttAcc, reference/attacc.md, second-hand); energies of "
            f"{PUBLISHED}, standby and refresh assumed from currents",
            tolerance=Tolerance(
                BUDGET_W, Unit.WATTS, "below the budget it does not bind, at it or above it would"
            ),
            limits="Does not tell which of the published figures is off (docs/model/power.md "
            "has the "
            "candidates), nor what a stack with units takes: there is no public measurement.",
            tests=("tests/pim/energy/test_power.py",),
        ),
        measure=quoted_budget_does_not_bind,
    )
    yield Check(
        Claim(
            id="energy-by-hand",
            room=Room.ENERGY,
            statement="Every command, and a head of 16 keys, cost what their bits, multiplies and "
            "segments come to by hand.",
            data="figures worked out by hand, every command at each placement",
            tolerance=ROUNDING,
            limits="Shows the accounting, not the energies.",
            needs=Needs.TESTS,
            tests=("tests/pim/energy/test_power.py", "tests/pim/energy/test_dram_energy.py"),
        )
    )


CHECKS: Final = tuple(_checks())
