"""What nobody has measured of AttAccs, and how much slower or faster it would make attention.

**Cadence.** The power budget of a stack decides how soon multiplies follow each other. Published
readings of the budget lie between 23 and 116 W, which allows 11 to 4 cycles for units in the banks
of `hbm3-5.2`, whose published cadence is 6 (docs/model/power.md). Other devices keep these ratios.
The ratio of the times is that of two timed programs.

**Activations.** AttAcc opens the rows of all banks at once. Others who build such memories open
rows by fours, within the window tFAW. If a rank, or a whole pseudo-channel, had to keep to that
window, opening the rows of all banks would take (banks / 4 - 1) tFAW longer. That delay is counted
for every row, and nothing of it is hidden: an estimate. A device that states its window
(`four_activate_window`) is timed with it, and leaves no doubt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from attacc.hardware.dram import DRAMS, ActivateWindow, DramDevice
from attacc.hardware.placement import Placement
from attacc.hardware.system import ResolvedSystem

FASTEST: Final = 4 / 6
"""Shortest cadence over the published one, with units in the banks: 4 cycles instead of 6."""
SLOWEST: Final = 11 / 6
"""Longest one: 11 cycles instead of 6."""
BANKS_PER_WINDOW: Final = 4
"""Banks whose rows may open within tFAW (JESD238)."""


@dataclass(frozen=True, slots=True)
class Activations:
    """How much longer attention takes if rows must open by fours.

    Attributes:
        per_rank: factor of the time if each rank keeps the window.
        per_pseudo_channel: factor of the time if each pseudo-channel does.
    """

    per_rank: float = 1.0
    per_pseudo_channel: float = 1.0


def device_of(system: ResolvedSystem) -> DramDevice | None:
    """Return the DRAM device of the AttAccs; None without AttAccs.

    Args:
        system: the system.
    """
    return None if system.attacc is None else DRAMS.load_name_or_file(system.attacc.table.dram)


def cadences(system: ResolvedSystem) -> tuple[int, ...]:
    """Return the fastest and the slowest cadence in doubt, in cycles; empty where none is.

    Args:
        system: the system.
    """
    device, pool = device_of(system), system.attacc
    if device is None or pool is None:
        return ()
    if pool.table.placement is not Placement.BANK or not pool.table.power_limited:
        return ()
    published = device.power_limited.nCCDAB
    fastest = max(device.unlimited.nCCDAB, round(FASTEST * published))
    return min(fastest, published), round(SLOWEST * published)


def activations(system: ResolvedSystem, element_bits: int) -> Activations:
    """Return how much longer attention takes if rows must open by fours.

    Args:
        system: the system.
        element_bits: bits of an element of keys and values.
    """
    device, pool = device_of(system), system.attacc
    if device is None or pool is None or pool.table.placement is Placement.BUFFER:
        return Activations()
    if device.four_activate_window is not ActivateWindow.NONE:
        return Activations()  # rows open by fours already
    table, organization = pool.table, device.organization
    cycles = device.parameters(
        power_limited=table.power_limited,
        queries_per_read=table.queries_per_read,
        element_bits=element_bits,
    )
    bank = table.placement is Placement.BANK
    interval = cycles["nCCDAB"] if bank else cycles["nCCDSB"]
    row = (
        cycles["nRCDRD"] + interval * organization.columns + cycles.get("nRTPL", 0) + cycles["nRP"]
    )
    open_at_once = organization.bank_groups * (organization.banks if bank else 1)

    def longer(banks: int) -> float:
        windows = max(0, -(-banks // BANKS_PER_WINDOW) - 1)
        return (row + windows * cycles.get("nFAW", 0)) / row

    return Activations(longer(open_at_once), longer(open_at_once * organization.ranks))
