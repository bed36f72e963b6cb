"""GPUs that do nothing but prefill, beside others that decode.

A prompt is prefilled on the one side, its keys and values move to the other side over the link
between the GPUs, and on to AttAccs where these attend. The slower side decides the rate; the boards
of the faster one wait for a part of the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from attacc.errors import InputError
from attacc.gpu.costs import Floats
from attacc.hardware.system import ResolvedSystem, gpus_alone, with_keys
from attacc.serving.steady import Prefill
from attacc.system.boundary import ConstantPower, constant_power
from attacc.system.capacity import Footprint
from attacc.system.layer import away_link, gpus_per_link
from attacc.system.layout import Layout
from attacc.system.pricer import Pricer
from attacc.units import NS_PER_S, PJ_PER_J

MOVED: Final = "keys and values to the GPUs that decode"


@dataclass(frozen=True, slots=True, eq=False)
class PrefillSide:
    """GPUs that do nothing but prefill.

    Attributes:
        pricer: prices the prefills of one replica.
        layout: of the model over these GPUs.
        prefill: the mean prefill, by the best estimates.
        need: what a request needs in memory on one replica.
    """

    pricer: Pricer
    layout: Layout
    prefill: Prefill
    need: Footprint

    @property
    def requests_per_s(self) -> float:
        """Prompts that all replicas prefill in a second at most."""
        return float(self.rates(self.prefill)[0])

    def rates(self, prefill: Prefill) -> Floats:
        """Return the prompts that all replicas prefill in a second at most.

        Args:
            prefill: mean prefills, of (draws,) draws.
        """
        return self.layout.replicas * NS_PER_S / prefill.time_ns


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """The move of one prompt's keys and values from the GPUs that prefill to those that decode.

    Attributes:
        time_ns: of the slower link; the move over both links is a pipeline of layers.
        energies_pj: (kinds, 1) energy of both links by the kinds of `attacc.gpu.costs.PARTS`.
    """

    time_ns: float
    energies_pj: Floats


def decoding(system: ResolvedSystem, prefill_gpus: int | None) -> ResolvedSystem:
    """Return the devices that decode.

    Args:
        system: all devices.
        prefill_gpus: GPUs of these that prefill.

    Raises:
        InputError: no GPU prefills, or none is left.
    """
    if prefill_gpus is None or not 1 <= prefill_gpus < system.gpus:
        raise InputError(
            "how many GPUs prefill is not said"
            if prefill_gpus is None
            else f"{prefill_gpus} is out of range",
            where="prefill_gpus",
            hint=f"{system.name} has {system.gpus} GPUs: give a part of them",
        )
    return with_keys(system, {"gpus": system.gpus - prefill_gpus})


def prefilling(system: ResolvedSystem, prefill_gpus: int) -> ResolvedSystem:
    """Return the GPUs that only prefill.

    Args:
        system: all devices.
        prefill_gpus: how many of its GPUs.
    """
    return with_keys(gpus_alone(system), {"gpus": prefill_gpus})


def move_of(sent: Footprint, decode: Pricer, need: Footprint, tokens: float) -> Move:
    """Return the move of a prompt's keys and values.

    Args:
        sent: what a request needs in memory on one replica that prefills.
        decode: prices the steps of one replica that decodes.
        need: what a request needs in memory there.
        tokens: of the prompt.

    Raises:
        InputError: no link between the GPUs is stated.
    """
    system = decode.system
    if system.link is None:
        raise InputError(
            f"{system.name} has no link between its GPUs, over which keys and values move",
            where="link",
            hint='add a link, such as "nvlink4"',
        )
    received, away = need.prompt_bytes(tokens), need.prompt_bytes(tokens, away=True)
    # The GPUs of a group send, or receive, at once. The side with fewer GPUs takes longer.
    largest = max(sent.prompt_bytes(tokens), received)
    costs, devices = decode.costs, decode.split.mixer_devices
    first = costs.transfer(MOVED, largest, system.link)
    energy = costs.transfer(MOVED, received, system.link).energy.times(devices)
    time_ns = float(first.time_ns[0])
    if away:
        per_link = gpus_per_link(system)
        on = costs.transfer(MOVED, per_link * away, away_link(system))
        energy = energy + on.energy.times(devices / per_link)
        time_ns = max(time_ns, float(on.time_ns[0]))
    return Move(time_ns, energy.parts_pj)


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """Both sides together, for one or several draws.

    Attributes:
        requests_per_s: (draws,) requests that end in a second.
        energies_j: (kinds, draws) energy of one request by the kinds of `attacc.gpu.costs.PARTS`:
            of its prefill, its move, its decode steps, and of boards that wait meanwhile.
    """

    requests_per_s: Floats
    energies_j: Floats


def joined(
    side: PrefillSide,
    prefill: Prefill,
    decode: Pricer,
    replicas: int,
    rates: Floats,
    energies_j: Floats,
    move: Move,
) -> Joined:
    """Return both sides together.

    Args:
        side: the GPUs that prefill.
        prefill: mean prefills, of (draws,) draws.
        decode: prices the steps of one replica that decodes.
        replicas: how many there are.
        rates: (draws,) requests that all of them decode in a second at most.
        energies_j: (kinds, draws) energy of one request there.
        move: of a prompt's keys and values.
    """
    most = side.rates(prefill)
    rate = np.minimum(most, rates)
    waiting = np.zeros((len(energies_j), rate.size))
    for pricer, count, own in (
        (side.pricer, side.layout.replicas, most),
        (decode, replicas, rates),
    ):
        idle_ns = count * NS_PER_S * (1 / rate - 1 / own)
        waiting += _boards(pricer).of_boards_in_steps(idle_ns).parts_pj
    return Joined(
        rate, energies_j + (prefill.steps.energies_pj + move.energies_pj + waiting) / PJ_PER_J
    )


def _boards(pricer: Pricer) -> ConstantPower:
    """Return what one replica draws at any time."""
    standby = None if pricer.attaccs is None else pricer.attaccs.standby
    return constant_power(pricer.system, pricer.costs.static_w(pricer.system.gpu), standby)
