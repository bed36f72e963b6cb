"""Every device of the presets plays programs of every placement, and plays them legally."""

from functools import cache

import pytest

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS, DramDevice, Refresh, RefreshMode
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.audit.legality import Check, check
from attacc.pim.mapping.balance import assign
from attacc.pim.mapping.geometry import HeadLayout, KeyLayout
from attacc.pim.program.interleaved import (
    QueryPasses,
    chunk_grain,
    interleaved_program,
    longest_chunk,
    sliced,
)
from attacc.pim.program.program import Program
from attacc.pim.program.schedule import attention_program
from attacc.pim.timing.engine import TimedRun, run
from attacc.pim.timing.tables import resolve_timing
from tests import share

pytestmark = pytest.mark.untraced  # the legality checker would take three times as long

PIPELINED = [name for name in DRAMS.names() if DRAMS.load(name).pipeline is not None]


@cache
def device_of(name: str, *, often: bool, per_bank: bool = False) -> DramDevice:
    """A preset; refreshed twice as often, or bank by bank."""
    device = DRAMS.load(name)
    if often:
        timing = device.timing | {"nREFI": device.timing["nREFI"] // 2}
        device = device.model_copy(update={"timing": timing})
    if per_bank:
        device = device.model_copy(update={"refresh": Refresh(mode=RefreshMode.PER_BANK)})
    return device


LENGTH = {Placement.BANK: 800, Placement.BANKGROUP: 260, Placement.BUFFER: 150}
"""Of heads, so that a channel is refreshed while it attends to two or three of them."""


def lengths_of(device: DramDevice, placement: Placement) -> list[int]:
    """Some heads for every channel, ragged, and one more."""
    heads = 2 * device.organization.channels + 1
    return [LENGTH[placement] + 13 * (i % 7) for i in range(heads)]


def interleaved(device: DramDevice, placement: Placement) -> Program:
    whole = KeyLayout(device.organization, placement, 128, ElementType.FP16)
    layout = sliced(device, whole, QueryPasses.of(1, 1), Schedule.INTERLEAVED)
    assignment = assign(
        lengths_of(device, placement),
        channels=device.organization.channels,
        longest=longest_chunk(device, layout),
        grain=chunk_grain(layout),
    )
    tables = resolve_timing(device, placement, power_limited=True)
    return interleaved_program(
        device, layout, assignment, multiply_interval=tables.multiply_interval
    )


def played(
    program: Program, device: DramDevice, placement: Placement, *, postponed_refreshes: int = 0
) -> TimedRun:
    """Run legally, or raise."""
    timed = run(program, resolve_timing(device, placement, power_limited=True), log=True)
    assert timed.log is not None
    report = check(
        timed.log,
        device,
        placement=placement,
        power_limited=True,
        postponed_refreshes=postponed_refreshes,
    )
    assert report.violations == ()
    assert report.channels == tuple(range(device.organization.channels))
    return timed


@pytest.mark.parametrize("placement", list(Placement))
@pytest.mark.parametrize("name", share.cases(__name__, DRAMS.names(), 4))
def test_every_device_plays_the_complete_schedule_legally(name: str, placement: Placement) -> None:
    """Catches an organisation or a rule that programs, engine or checker cannot cope with.

    Row hits hold the PREA of a refresh back, at the buffer die for up to 2,000 cycles. That is on
    time on every device, but not where refreshes come twice as often.
    """
    device = device_of(name, often=True)
    layout = HeadLayout(device.organization, placement, 128, ElementType.FP16, 70)
    program = attention_program(layout, device.organization.channels + 3, Schedule.COMPLETE)
    timed = played(program, device, placement, postponed_refreshes=1)
    family = device.rule_set.families[placement]
    assert timed.count(family.multiply) > timed.count(family.activate) > 0


@pytest.mark.parametrize("placement", list(Placement))
@pytest.mark.parametrize("name", share.cases(__name__, PIPELINED, 3))
def test_every_pipelined_device_plays_the_interleaved_schedule_legally(
    name: str, placement: Placement
) -> None:
    """Catches a pipeline or a buffer too small for the schedule."""
    device = device_of(name, often=True)
    program = interleaved(device, placement)
    timed = played(program, device, placement, postponed_refreshes=1)
    assert timed.count("REFab") > 0


@pytest.mark.parametrize("placement", [Placement.BANKGROUP, Placement.BUFFER])
@pytest.mark.parametrize("name", share.cases(__name__, PIPELINED, 2))
def test_every_pipelined_device_is_refreshed_bank_by_bank(name: str, placement: Placement) -> None:
    """Catches a device whose per-bank refresh starves, comes late, or hits an open bank."""
    device = device_of(name, often=False, per_bank=True)
    timed = played(interleaved(device, placement), device, placement)
    assert timed.count("REFsb") > timed.count("REFab") == 0


@pytest.mark.parametrize("name", PIPELINED)
def test_units_of_all_banks_refuse_to_be_refreshed_bank_by_bank(name: str) -> None:
    """Catches a program that is never served, where one bank or another is always busy."""
    device = device_of(name, often=False, per_bank=True)
    interval = device.timing["nREFI"] // (
        device.organization.banks_per_channel // device.organization.pseudo_channels
    )
    if interval <= device.timing["nRFCpb"]:
        with pytest.raises(InputError, match="refreshed every"):
            resolve_timing(device, Placement.BANK, power_limited=True)
    else:
        played(interleaved(device, Placement.BANK), device, Placement.BANK)


@pytest.mark.untraced  # of many logs alike
def test_an_early_command_of_another_standard_is_found() -> None:
    """Catches a checker that takes every device for HBM3."""
    device = device_of("hbm4-8.0", often=False)
    timed = played(interleaved(device, Placement.BUFFER), device, Placement.BUFFER)
    other = device_of("hbm4-16.0", often=False)
    assert timed.log is not None
    report = check(timed.log, other, placement=Placement.BUFFER, power_limited=True)
    assert {v.check for v in report.violations} == {Check.TIMING}
