"""What a system draws at any time, and what of it lies inside which boundary.

The boards are the GPUs and the AttAccs, each with its memory, its end of the links, and what it
draws while it waits. The node is the boards and the host beside them: CPUs, network, switches,
fans, losses of power supplies. Both sides of a comparison are counted within the same boundary
(docs/model/boundary.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from attacc.errors import EngineError
from attacc.gpu.costs import Energies, EnergyBreakdown, Floats
from attacc.hardware.system import ResolvedSystem
from attacc.pim.energy.power import Standby

PJ_PER_NS_PER_W: Final = 1e3
"""Picojoules of one watt in a nanosecond."""


@dataclass(frozen=True, slots=True)
class ConstantPower:
    """Power that a system draws at any time of a step, whatever it does.

    Attributes:
        gpus_w: idle power of the boards of all GPUs, their memory included.
        standby_w: standby, with precharged banks, and refresh of the stacks of all AttAccs.
        devices_w: what all AttAccs draw beside their stacks: logic, interfaces, voltage regulators.
        host_w: the node beside its boards.
    """

    gpus_w: float = 0.0
    standby_w: float = 0.0
    devices_w: float = 0.0
    host_w: float = 0.0

    @property
    def boards_w(self) -> float:
        """Power inside the boundary of the boards."""
        return self.gpus_w + self.standby_w + self.devices_w

    @property
    def node_w(self) -> float:
        """Power inside the boundary of the node."""
        return self.boards_w + self.host_w

    def of_boards(self, time_ns: float) -> EnergyBreakdown:
        """Return the energy of the boards in a time."""
        per_w = PJ_PER_NS_PER_W * time_ns
        return EnergyBreakdown(
            static_pj=self.gpus_w * per_w,
            standby_pj=self.standby_w * per_w,
            device_pj=self.devices_w * per_w,
        )

    def of_host(self, time_ns: float) -> EnergyBreakdown:
        """Return the energy of the host in a time."""
        return EnergyBreakdown(host_pj=self.host_w * PJ_PER_NS_PER_W * time_ns)

    def of_boards_in_steps(self, time_ns: Floats) -> Energies:
        """Return the energy of the boards in several times."""
        per_w = PJ_PER_NS_PER_W * time_ns
        return Energies.of(
            static_pj=self.gpus_w * per_w,
            standby_pj=self.standby_w * per_w,
            device_pj=self.devices_w * per_w,
        )

    def of_host_in_steps(self, time_ns: Floats) -> Energies:
        """Return the energy of the host in several times."""
        return Energies.of(host_pj=self.host_w * PJ_PER_NS_PER_W * time_ns)


def constant_power(system: ResolvedSystem, gpu_w: float, standby: Standby | None) -> ConstantPower:
    """Return what a system draws at any time.

    Args:
        system: the system.
        gpu_w: idle power of the board of one GPU.
        standby: of the stacks of all AttAccs; None where the system does not count it.

    Raises:
        EngineError: the system counts standby, and it is not given.
    """
    gpus_w, host_w = system.gpus * gpu_w, system.spec.host_power_w or 0.0
    if system.attacc is None:
        return ConstantPower(gpus_w=gpus_w, host_w=host_w)
    table = system.attacc.table
    if table.standby and standby is None:
        raise EngineError(f"system {system.name} counts the standby of its stacks: it is needed")
    return ConstantPower(
        gpus_w=gpus_w,
        standby_w=0.0 if standby is None else standby.closed_w,
        devices_w=table.devices * table.device_power_w,
        host_w=host_w,
    )
