"""Silicon, prices and rated power of a system: data of presets, and arithmetic.

Two levels of money are told apart and never mixed: what boards cost to make, and what they are sold
for. No AttAcc is on sale, so its price has the gross margin of the GPU beside it. Dies of equal
capacity grow by the units on them, and memory with units costs more by as much silicon
(docs/model/cost.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from attacc.errors import EngineError, InputError
from attacc.hardware.dram import DERIVED_CADENCE, DRAMS, DramDevice
from attacc.hardware.placement import Placement
from attacc.hardware.system import AttaccCostTable, AttaccPool, ResolvedSystem
from attacc.pim.energy.area import units_area_mm2
from attacc.pim.energy.dram import DRAM_ENERGIES
from attacc.pim.energy.power import sustained_power
from attacc.units import GIB

GPU_DIES: Final = 8
"""Core dies of a stack of a GPU; assumed, as of the stacks of an H100, H200 and B200."""
GPU_DIE_MM2: Final = 121.0
"""Area of one of them; assumed, that of HBM3."""
HOURS_PER_YEAR: Final = 8760.0


@dataclass(frozen=True, slots=True)
class DramArea:
    """Silicon of the core dies of a system's memory, in square millimetres.

    Attributes:
        gpus_mm2: of the memory of all GPUs.
        attaccs_mm2: of all stacks of the AttAccs, their units included.
        units_mm2: part of it that the units take.
    """

    gpus_mm2: float
    attaccs_mm2: float = 0.0
    units_mm2: float = 0.0

    @property
    def total_mm2(self) -> float:
        """Area of all core dies."""
        return self.gpus_mm2 + self.attaccs_mm2


@dataclass(frozen=True, slots=True)
class Money:
    """What a system costs, in US dollars.

    Attributes:
        gpus_cost_usd: what all GPUs cost to make.
        attaccs_cost_usd: what all AttAccs cost to make.
        gpus_price_usd: price of all GPUs.
        attaccs_price_usd: price of all AttAccs, with the gross margin of the GPUs.
        host_price_usd: price of the node beside its boards; 0 if not stated.
    """

    gpus_cost_usd: float
    attaccs_cost_usd: float
    gpus_price_usd: float
    attaccs_price_usd: float
    host_price_usd: float

    @property
    def boards_cost_usd(self) -> float:
        """What all boards cost to make."""
        return self.gpus_cost_usd + self.attaccs_cost_usd

    @property
    def boards_price_usd(self) -> float:
        """Price of all boards."""
        return self.gpus_price_usd + self.attaccs_price_usd

    @property
    def node_price_usd(self) -> float:
        """Price of the boards and the host."""
        return self.boards_price_usd + self.host_price_usd


@dataclass(frozen=True, slots=True)
class Ownership:
    """How long and how a system is used, and what its energy costs. All defaults are assumed.

    Attributes:
        years: time over which the price is written off.
        use: share of this time in which the system works.
        pue: energy of the building for each joule of the node.
        usd_per_kwh: price of energy.
    """

    years: float = 4.0
    use: float = 0.7
    pue: float = 1.2
    usd_per_kwh: float = 0.1

    def usd_per_h(self, price_usd: float, power_w: float) -> float:
        """Return what an hour of work costs.

        Args:
            price_usd: price of the system.
            power_w: mean power of the node while it works.
        """
        capital = price_usd / (self.years * HOURS_PER_YEAR * self.use)
        return capital + power_w / 1e3 * self.pue * self.usd_per_kwh


def unit_share(device: DramDevice, queries: int, placement: Placement) -> float:
    """Return the share of a finished core die that units take.

    The rule is that of HBM3: units of AttAcc's process, one in every bank.

    Args:
        device: the stack.
        queries: queries that a read serves.
        placement: where the units sit.

    Raises:
        InputError: the area of such units, or of the device's dies, is not known.
    """
    dies, die_mm2 = device.dies, device.die_area_mm2
    if dies is None or die_mm2 is None:
        raise _unknown(f"device {device.name}", "dies and die_area")
    o = device.organization
    banks = o.channels * o.pseudo_channels * o.ranks * o.bank_groups * o.banks
    units_mm2 = units_area_mm2(queries, banks // dies)
    if units_mm2 is None or placement is not Placement.BANK:
        raise InputError(
            f"the area of units at {placement} that serve {queries} queries is not known",
            where="attacc.cost.unit_share",
            hint="state the share of a die that they take",
        )
    return units_mm2 / die_mm2


def dram_area(system: ResolvedSystem) -> DramArea:
    """Return the silicon of a system's memory.

    Raises:
        InputError: the number of stacks of the GPU, or a number of the AttAccs, is not stated.
    """
    stacks = system.gpu.memory_stacks
    if stacks is None:
        raise _unknown(f"GPU {system.gpu.name}", "memory_stacks")
    gpus = system.gpus * stacks * GPU_DIES * GPU_DIE_MM2
    if system.attacc is None:
        return DramArea(gpus)
    device, share = _device(system.attacc), _share(system.attacc)
    if device.dies is None or device.die_area_mm2 is None:
        raise _unknown(f"device {device.name}", "dies and die_area")
    grown = system.attacc.stacks * device.dies * device.die_area_mm2 / (1 - share)
    return DramArea(gpus, grown, share * grown)


def stack_cost_usd(pool: AttaccPool) -> float:
    """Return what one stack with units costs: its gigabytes, its silicon and its yield.

    Raises:
        InputError: the price of the memory, or the area of the units, is not stated.
    """
    device = _device(pool)
    if device.price_usd_per_gb is None:
        raise _unknown(f"device {device.name}", "price")
    plain = device.organization.stack_bytes / GIB * device.price_usd_per_gb
    return plain / (1 - _share(pool)) * _table(pool).stack_factor


def money(system: ResolvedSystem) -> Money:
    """Return what a system costs to make, and its price.

    Raises:
        InputError: a price, or an area that it depends on, is not stated.
    """
    gpu = system.gpu
    if gpu.price_usd is None or gpu.build_cost_usd is None:
        raise _unknown(f"GPU {gpu.name}", "price and build_cost")
    attaccs = 0.0
    if system.attacc is not None:
        table, pool = _table(system.attacc), system.attacc
        beside = table.controller_usd + table.packaging_usd + table.board_usd
        attaccs = pool.stacks * stack_cost_usd(pool) + pool.table.devices * beside
    return Money(
        gpus_cost_usd=system.gpus * gpu.build_cost_usd,
        attaccs_cost_usd=attaccs,
        gpus_price_usd=system.gpus * gpu.price_usd,
        attaccs_price_usd=attaccs * gpu.price_usd / gpu.build_cost_usd,
        host_price_usd=system.spec.host_price_usd or 0.0,
    )


def rent_usd_per_h(system: ResolvedSystem) -> float:
    """Return the market price of an hour of a system: its GPUs, and AttAccs in proportion to cost.

    Raises:
        InputError: as in `money`, or the GPU's rent is not stated.
    """
    if system.gpu.rent_usd_per_h is None:
        raise _unknown(f"GPU {system.gpu.name}", "rent")
    found = money(system)
    gpus = system.gpus * system.gpu.rent_usd_per_h
    return gpus * found.boards_cost_usd / found.gpus_cost_usd


def rated_power_w(system: ResolvedSystem) -> float:
    """Return the most that the boards draw for long: data sheets, and stacks that always multiply.

    Raises:
        InputError: the GPU's board power is not stated, or the energies of the stacks are not.
    """
    if system.gpu.board_power_w is None:
        raise _unknown(f"GPU {system.gpu.name}", "board_power")
    gpus_w = system.gpus * system.gpu.board_power_w
    if system.attacc is None:
        return gpus_w
    table, device = system.attacc.table, _device(system.attacc)
    timing = device.parameters(
        power_limited=table.power_limited, queries_per_read=table.queries_per_read
    )
    cadence = {
        Placement.BANK: "nCCDAB",
        Placement.BANKGROUP: "nCCDSB",
        Placement.BUFFER: DERIVED_CADENCE,
    }
    stack_w = sustained_power(
        device,
        table.placement,
        timing[cadence[table.placement]],
        DRAM_ENERGIES.load(device.energy),
        table.queries_per_read,
    ).total_w
    return gpus_w + system.attacc.stacks * stack_w + table.devices * table.device_power_w


def _device(pool: AttaccPool) -> DramDevice:
    return DRAMS.load_name_or_file(pool.table.dram, where="attacc.dram")


def _table(pool: AttaccPool) -> AttaccCostTable:
    if pool.table.cost is None:
        raise _unknown("system", "the table [attacc.cost]")
    return pool.table.cost


def _share(pool: AttaccPool) -> float:
    """Return the share of a finished core die that units take, as stated or by the rule."""
    stated = None if pool.table.cost is None else pool.table.cost.unit_share
    if stated is not None:
        return stated
    share = unit_share(_device(pool), pool.table.queries_per_read, pool.table.placement)
    if share >= 1:
        raise EngineError(f"units take {share:.0%} of a die")
    return share


def _unknown(where: str, what: str) -> InputError:
    return InputError(f"it does not state {what}", where=where, hint=f"add {what}")
