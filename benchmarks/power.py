"""Sustained power of a stack under every published assumption, and what budgets would mean.

Prints the tables of docs/model/power.md: power at a cadence, cadences from budgets, and the budgets
that the published cadences would follow from.

    python benchmarks/power.py [--json]
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from attacc.hardware.dram import DRAMS, DramDevice
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.energy.dram import DRAM_ENERGIES, DramEnergy
from attacc.pim.energy.power import (
    background_w,
    cadence_from_budget,
    sustained_power,
    windowed_power,
    with_power_cadence,
)
from attacc.pim.mapping.geometry import HeadLayout
from attacc.pim.program.schedule import attention_program
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing
from attacc.units import BITS_PER_BYTE, NS_PER_S, PJ_PER_J

DEVICE = DRAMS.load("hbm3-5.2")
FGDRAM = DRAM_ENERGIES.load("fgdram-2017")
CURRENTS = DRAM_ENERGIES.load("hbm2-currents")
BANK, BANKGROUP, BUFFER = Placement

QUOTED_W = 116.0
"""Budget of a stack, after IDD7, second hand (reference/attacc.md)."""
STACKS = 5
"""Stacks of an AttAcc (reference/attacc.md)."""
GRADES = ("4.8", "5.2", "5.6", "6.0", "6.4")
WINDOW_CYCLES = 1000


@dataclass(frozen=True)
class AtCadence:
    """Power in watts under one assumption, and the budgets between which a cadence of 6 binds."""

    assumption: str
    bank_4: float
    bank_6: float
    bank_budgets: tuple[float, float]
    bankgroup_4: float
    bankgroup_6: float
    bankgroup_budgets: tuple[float, float]
    buffer_2: float
    bank_cycles_at_116_w: int


@dataclass(frozen=True)
class FromBudget:
    """Cadences in cycles that a budget allows; None where it cannot be kept."""

    budget: str
    watts: float
    bank: int
    bankgroup: int
    buffer: int | None
    bank_currents: int
    bankgroup_currents: int


@dataclass(frozen=True)
class Explained:
    """Budgets, in watts beyond standby and refresh, from which published cadences would follow."""

    grade: str
    bank_cycles: int
    bank: tuple[float, float]
    bankgroup_cycles: int
    bankgroup: tuple[float, float]


@dataclass(frozen=True)
class Run:
    """Power of attention over time."""

    cadence: str
    cycles: int
    time_us: float
    mean_w: float
    peak_w: float
    steady_w: float


@dataclass(frozen=True)
class Report:
    """All tables."""

    at_cadence: list[AtCadence]
    from_budget: list[FromBudget]
    explained: list[Explained]
    runs: list[Run]


def with_path(energies: DramEnergy, placement: Placement, *, activation: bool) -> DramEnergy:
    """Return energies under which units read bits as dearly as a host does, or free of rows."""
    fields = {name: getattr(energies, name) for name in DramEnergy.model_fields}
    if not activation:
        # Quantities are positive: what is left is no longer seen.
        return DramEnergy.model_validate(fields | {"activate": 1e-12})
    rest = energies.unit_to_buffer_die(placement) + energies.interposer
    return DramEnergy.model_validate(fields | {"cell": energies.cell + rest})


def assumptions() -> Iterator[AtCadence]:
    def row(name: str, *, total: bool, energies: dict[Placement, DramEnergy]) -> AtCadence:
        def power(placement: Placement, cycles: int) -> float:
            layout = HeadLayout(DEVICE.organization, placement, 128, ElementType.FP16, 2048)
            of = energies[placement]
            if total:
                return sustained_power(DEVICE, placement, cycles, of, layout=layout).total_w
            return sustained_power(DEVICE, placement, cycles, of).dynamic_w

        cycles = next(n for n in range(1, 100) if power(BANK, n) <= QUOTED_W)
        return AtCadence(
            assumption=name,
            bank_4=power(BANK, 4),
            bank_6=power(BANK, 6),
            bank_budgets=(power(BANK, 6), power(BANK, 5)),
            bankgroup_4=power(BANKGROUP, 4),
            bankgroup_6=power(BANKGROUP, 6),
            bankgroup_budgets=(power(BANKGROUP, 6), power(BANKGROUP, 5)),
            buffer_2=power(BUFFER, 2),
            bank_cycles_at_116_w=max(cycles, DEVICE.unlimited.nCCDAB),
        )

    for energies in (FGDRAM, CURRENTS):
        everywhere = dict.fromkeys(Placement, energies)
        rowless = {p: with_path(energies, p, activation=False) for p in Placement}
        if energies.activate_row is None:
            yield row(f"{energies.name}, no rows", total=False, energies=rowless)
        yield row(energies.name, total=False, energies=everywhere)
        yield row(f"{energies.name}, everything", total=True, energies=everywhere)
    host = {p: with_path(FGDRAM, p, activation=True) for p in Placement}
    yield row("fgdram-2017, bits as dear as a host's", total=False, energies=host)


def idd7_w(device: DramDevice, energies: DramEnergy, *, row_per_burst: bool) -> float:
    """Estimate IDD7: interleaved reads at the full rate of the interface, to the buffer die.

    Args:
        device: the stack.
        energies: energy per event.
        row_per_burst: whether every burst has a row opened for it (nRRDS apart), or only as many
            as nFAW lets pass.
    """
    o, t = device.organization, device.timing
    pseudo_channels = o.channels * o.pseudo_channels
    row_bits = o.columns * o.access_bytes * BITS_PER_BYTE
    row_pj = energies.activate_row or energies.activate * row_bits
    path = energies.cell + energies.column_to_bank_group + energies.bank_group_to_io + energies.tsv
    read_w = device.external_bytes_per_s * BITS_PER_BYTE * path / PJ_PER_J
    per_cycle = 1 / t["nRRDS"] if row_per_burst else 4 / t["nFAW"]
    rows_w = pseudo_channels * row_pj * per_cycle / device.clock_ns * NS_PER_S / PJ_PER_J
    return background_w(device, energies) + read_w + rows_w


def budgets() -> Iterator[FromBudget]:
    named = [
        ("IDD7 estimate, hbm2-currents, nFAW", idd7_w(DEVICE, CURRENTS, row_per_burst=False)),
        ("116 W / 5 stacks", QUOTED_W / STACKS),
        ("IDD7 estimate, fgdram-2017, nFAW", idd7_w(DEVICE, FGDRAM, row_per_burst=False)),
        ("30 W", 30.0),
        ("IDD7 estimate, hbm2-currents, a row per burst",
         idd7_w(DEVICE, CURRENTS, row_per_burst=True)),
        ("IDD7 estimate, fgdram-2017, a row per burst",
         idd7_w(DEVICE, FGDRAM, row_per_burst=True)),
        ("116 W", QUOTED_W),
    ]  # fmt: skip
    for name, watts in named:
        buffer = cadence_from_budget(DEVICE, BUFFER, watts, FGDRAM)
        yield FromBudget(
            budget=name,
            watts=watts,
            bank=cadence_from_budget(DEVICE, BANK, watts, FGDRAM).cycles,
            bankgroup=cadence_from_budget(DEVICE, BANKGROUP, watts, FGDRAM).cycles,
            buffer=None if buffer.binding else buffer.cycles,
            bank_currents=cadence_from_budget(DEVICE, BANK, watts, CURRENTS).cycles,
            bankgroup_currents=cadence_from_budget(DEVICE, BANKGROUP, watts, CURRENTS).cycles,
        )


def explained() -> Iterator[Explained]:
    def interval(device: DramDevice, placement: Placement, cycles: int) -> tuple[float, float]:
        least, too_much = (
            sustained_power(device, placement, n, FGDRAM).dynamic_w for n in (cycles, cycles - 1)
        )
        return least, too_much

    rows: list[Explained] = []
    for grade in GRADES:
        device = DRAMS.load(f"hbm3-{grade}-asplos24")
        ab, sb = device.power_limited.nCCDAB, device.power_limited.nCCDSB
        bank, bankgroup = interval(device, BANK, ab), interval(device, BANKGROUP, sb)
        rows.append(Explained(f"{grade} Gb/s", ab, bank, sb, bankgroup))
    yield from rows
    bank, bankgroup = (
        (max(low for low, _ in spans), min(high for _, high in spans))
        for spans in ([row.bank for row in rows], [row.bankgroup for row in rows])
    )
    yield Explained("all", 0, bank, 0, bankgroup)


def runs() -> Iterator[Run]:
    """Attention of 130 heads of 3,072 keys with units per bank."""
    layout = HeadLayout(DEVICE.organization, BANK, 128, ElementType.FP16, 3072)
    program = attention_program(layout, 130, Schedule.COMPLETE)
    of_budget = cadence_from_budget(DEVICE, BANK, 30.0, FGDRAM, layout=layout)
    cases = [
        ("4 (unlimited)", DEVICE, False),
        ("6 (published)", DEVICE, True),
        (f"{of_budget.cycles} (30 W)", with_power_cadence(DEVICE, of_budget), True),
    ]
    for name, device, power_limited in cases:
        tables = resolve_timing(device, BANK, power_limited=power_limited)
        timed = run(program, tables, window_cycles=WINDOW_CYCLES)
        assert timed.windows is not None
        trace = windowed_power(
            timed.windows, device, BANK, FGDRAM, WINDOW_CYCLES, cycles=timed.cycles
        )
        yield Run(
            cadence=name,
            cycles=timed.cycles,
            time_us=timed.time_ns / 1e3,
            mean_w=trace.mean_w,
            peak_w=trace.peak_w,
            steady_w=sustained_power(
                device, BANK, tables.multiply_interval, FGDRAM, layout=layout
            ).total_w,
        )


def table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    result = Table(title=title)
    for i, name in enumerate(names):
        result.add_column(name, justify="right" if i else "left")
    for row in rows:
        result.add_row(*row)
    return result


def span(interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{low:.1f} to {high:.1f}" if low < high else f"none ({low:.1f} > {high:.1f})"


def tables(report: Report) -> Iterator[Table]:
    yield table(
        "Sustained watts of a stack by cadence, and budgets under which 6 cycles bind",
        ("assumption", "bank 4", "6", "6 binds", "bankgroup 4", "6", "6 binds", "buffer 2",
         "bank cycles at 116 W"),
        [(r.assumption, f"{r.bank_4:.1f}", f"{r.bank_6:.1f}", span(r.bank_budgets),
          f"{r.bankgroup_4:.1f}", f"{r.bankgroup_6:.1f}", span(r.bankgroup_budgets),
          f"{r.buffer_2:.1f}", str(r.bank_cycles_at_116_w)) for r in report.at_cadence],
    )  # fmt: skip
    yield table(
        "Cadence in cycles that a budget allows, standby and refresh paid for",
        ("budget of a stack", "W", "bank", "bankgroup", "buffer", "bank, currents",
         "bankgroup, currents"),
        [(r.budget, f"{r.watts:.1f}", str(r.bank), str(r.bankgroup),
          "exceeded" if r.buffer is None else str(r.buffer), str(r.bank_currents),
          str(r.bankgroup_currents)) for r in report.from_budget],
    )  # fmt: skip
    yield table(
        "Watts (without standby and refresh, fgdram-2017) from which published cadences follow",
        ("grade", "bank", "W", "bankgroup", "W"),
        [(r.grade, str(r.bank_cycles or ""), span(r.bank), str(r.bankgroup_cycles or ""),
          span(r.bankgroup)) for r in report.explained],
    )  # fmt: skip
    yield table(
        f"130 heads of 3,072 keys, bank, windows of {WINDOW_CYCLES} cycles",
        ("cadence", "cycles", "us", "mean W", "peak W", "steady W"),
        [(r.cadence, f"{r.cycles:,}", f"{r.time_us:.1f}", f"{r.mean_w:.1f}", f"{r.peak_w:.1f}",
          f"{r.steady_w:.1f}") for r in report.runs],
    )  # fmt: skip


def main(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Compare what the public numbers on power imply, for an HBM3 5.2 Gb/s stack."""
    report = Report(list(assumptions()), list(budgets()), list(explained()), list(runs()))
    if as_json:
        print(json.dumps(asdict(report), indent=2))
        return
    console = Console(width=max(150, Console().width))
    for each in tables(report):
        console.print(each)


if __name__ == "__main__":
    typer.run(main)
