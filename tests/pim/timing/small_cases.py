"""Prints what the kernels make of small cases, as JSON; run with and without compilation."""

import json
import sys
from itertools import product

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS, DramDevice, Refresh, RefreshMode
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.mapping.geometry import HeadLayout
from attacc.pim.program.program import Program
from attacc.pim.program.schedule import attention_program
from attacc.pim.program.trace import format_trace, parse_trace
from attacc.pim.program.traffic import Traffic, TrafficPolicy, mixed
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing

DEVICE = DRAMS.load("hbm3-5.2-asplos24")
SHARED = DRAMS.load("hbm3-5.2")
"""A device that serves ordinary traffic."""
OFTEN = {"nREFI": 300, "nRFC": 60}
REOPENING = {"nREFI": 5, "nRFC": 1, "nRAS": 1, "nRP": 1, "nRC": 1}

SIZES = [(1, 20), (17, 16), (33, 1), (49, 40)]
"""Heads and length: rounds that are unpaired, paired, and both."""

TEXTS = {
    "blank lines and spaces": "\n  PIM_SFM \t0x0 \r\n\n\tPIM_WR_GB 0XfF\nPIM_BARRIER 0x00000000",
    "a step on several channels": "PIM_SFM 0x0\nPIM_SFM 0x40000000\nPIM_SFM 0x80000000\n",
    "one on another bank": "PIM_WR_GB 0x0\nPIM_WR_GB 0x41000000\n",
    "all requests": "".join(
        f"{name} 0x20\n" for name in ("PIM_MAC_AB", "PIM_MV_SB", "PIM_MV_GB", "LD", "ST")
    ),
    "row conflicts": "".join(f"PIM_MAC_AB {1 << 10 | i << 24:#x}\n" for i in range(4)) * 2,
    "rows in several banks": "PIM_MAC_SB 0x0\nPIM_BARRIER 0x0\nPIM_MAC_SB 0x1000400\n" * 3,
    "moves before and behind barriers": "PIM_WR_GB 0x0\nPIM_BARRIER 0x0\nPIM_BARRIER 0x0\n" * 4,
    "moves beside row hits": "PIM_MAC_PB 0x0\nPIM_MAC_PB 0x20\nPIM_MV_GB 0x0\nPIM_SFM 0x0\n" * 3,
    "longer than a queue's buffer": "PIM_MAC_AB 0x0\n" * 1100,
    "rows closed for each other": "PIM_MAC_AB 0x0\nPIM_MAC_AB 0x1000400\n",
    "nothing": "",
    "unknown request": "PIM_SFM 0x0\nPIM_SMF 0x0\n",
    "lower case": "pim_sfm 0x0",
    "no address": "PIM_SFM",
    "no digits": "PIM_SFM 0x\n",
    "no prefix": "PIM_SFM 16\n",
    "not hexadecimal": "PIM_SFM 0x1g\n",
    "beyond the stack": "PIM_SFM 0x400000000\n",
    "far beyond every integer": "PIM_SFM 0x" + "f" * 40,
    "trailing text": "PIM_SFM 0x0 0x1\n",
}


def narrow(traffic: Traffic) -> Traffic:
    """The same in two channels, and in few banks and rows, so that rows are in each other's way."""
    r = traffic.requests
    places = 1 << 29 | 1 << 26 | 3 << 10 | 31 << 5
    requests = Program(r.organization, r.kind, r.address & places, r.first_channel % 2, r.channels)
    return Traffic(requests, traffic.arrival)


HOST = [
    narrow(mixed(SHARED.organization, 150, seed=1, cycles_per_request=0.5)),
    narrow(
        mixed(SHARED.organization, 150, seed=2, writes=0.7, locality=0.9, cycles_per_request=20)
    ),
]
POLICIES = [None, TrafficPolicy(queue=4, write_high=3, write_low=1, patience=40, turn=60)]


def timed(
    program: Program,
    device: DramDevice,
    traffic: Traffic | None = None,
    policy: TrafficPolicy | None = None,
) -> object:
    try:
        tables = resolve_timing(device, program.placement(), power_limited=True)
        result = run(program, tables, log=True, traffic=traffic, policy=policy)
    except InputError as error:
        return str(error)
    assert result.log is not None
    served = None if result.traffic is None else result.traffic.served.tolist()
    return [result.cycles, served, [repr(entry) for entry in result.log if entry.channel in (0, 1)]]


BARRIERED = (Schedule.COMPLETE, Schedule.PUBLISHED)
"""The schedules that are ordered by barriers."""


def outcomes() -> dict[str, object]:
    """What every case gives."""
    found: dict[str, object] = {}
    devices = {
        str(timing): DEVICE.model_copy(update={"timing": DEVICE.timing | timing})
        for timing in ({}, OFTEN, REOPENING)
    }
    for placement, schedule, (heads, length) in product(Placement, BARRIERED, SIZES):
        layout = HeadLayout(DEVICE.organization, placement, 32, ElementType.FP16, length)
        program = attention_program(layout, heads, schedule)
        key = f"{placement} {schedule} {heads} {length}"
        found[key] = [format_trace(program), timed(program, devices[str(OFTEN)])]
    shared = [
        SHARED.model_copy(update={"timing": SHARED.timing | OFTEN}),
        SHARED.model_copy(update={"refresh": Refresh(mode=RefreshMode.PER_BANK)}),
    ]
    for placement, device, host, policy in product(Placement, shared, HOST, POLICIES):
        layout = HeadLayout(SHARED.organization, placement, 32, ElementType.FP16, 20)
        program = attention_program(layout, 17, Schedule.COMPLETE)
        key = f"{placement} beside {host.bytes} bytes from {host.arrival[0]} on, {policy}"
        found[f"{key}, {device.refresh.mode}"] = timed(program, device, host, policy)
    for name, text in TEXTS.items():
        try:
            program = parse_trace(text.encode(), DEVICE.organization, where=name)
        except InputError as error:
            found[name] = str(error)
            continue
        for timing, device in devices.items():
            found[f"{name} {timing}"] = [format_trace(program), timed(program, device)]
    return found


if __name__ == "__main__":
    json.dump(outcomes(), sys.stdout)
