"""Writes of keys and values into a stack: the small programs against full ones."""

from functools import cache
from math import isclose

import numpy as np
import pytest

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.energy.dram import DRAM_ENERGIES
from attacc.pim.mapping.balance import assign_together
from attacc.pim.mapping.geometry import HeadLayout, allocate_chunks
from attacc.pim.program.interleaved import (
    QueryPasses,
    chunk_grain,
    interleaved_program,
    longest_chunk,
)
from attacc.pim.program.program import Kind, Program
from attacc.pim.program.traffic import kv_writes, streaming, token_writes
from attacc.pim.stack import Stack
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing
from attacc.pim.written import StackWrites, added_beside

TURN = 1000
"""Cycles of a turn, of which the model may be off by one."""
SHARE = 0.1
"""Share of attention and its writes by which the model may be off besides: the figure that
docs/model/overlap.md states, of 90 random cases on three devices."""


@cache
def writes_of(
    device: str, placement: Placement, schedule: Schedule = Schedule.INTERLEAVED
) -> StackWrites:
    """Writes of heads of 128 fp16 elements, one query for each read."""
    stack = Stack(device, placement, schedule=schedule)
    layout = stack.layout(1, 128, ElementType.FP16).of_any_length
    return StackWrites(stack, layout, QueryPasses.of(1, 1))


def nothing() -> Program:
    """A program without steps."""
    layout = HeadLayout(DRAMS.load("hbm3-5.2").organization, Placement.BANK, 1, ElementType.FP16, 1)
    return token_writes(layout, allocate_chunks(layout, [1]), []).requests


def full(
    device: str, placement: Placement, length: int, heads: int, tokens: int, interval: float
) -> tuple[int, int, int]:
    """Cycles of attention alone and beside a head's prefill, in one channel, and the writes."""
    loaded = DRAMS.load(device)
    o = loaded.organization
    tables = resolve_timing(loaded, placement, power_limited=True)
    layout = HeadLayout(o, placement, 128, ElementType.FP16, length)
    assignment = assign_together(
        [length] * heads, together=heads, channels=o.channels,
        longest=longest_chunk(loaded, layout), grain=chunk_grain(layout),
    )  # fmt: skip
    program = interleaved_program(
        loaded, layout, assignment, multiply_interval=tables.multiply_interval
    )
    prompt = HeadLayout(o, placement, 128, ElementType.FP16, tokens)
    regions = allocate_chunks(layout, [length] * heads)
    row = o.columns * o.access_bytes
    first = int(regions.values[-1]) + layout.value_rows * row
    written = kv_writes(prompt, keys=first, values=first + prompt.rows * row).paced(interval)
    timed = run(program, tables, traffic=written, log=True)
    units = ("MAC", "MV", "SFM", "WRGB")
    ends = max(one.cycle for one in timed.log or () if one.command.startswith(units))
    return run(program, tables).cycles, ends, len(written.requests)


CASES = [
    ("hbm3-5.2", Placement.BANK, 3333, 2, 700, 0.0),
    ("hbm3-5.2", Placement.BANK, 1500, 6, 90, 3.0),
    ("hbm3-5.2", Placement.BANK, 3900, 3, 4000, 0.0),
    ("hbm3-5.2", Placement.BANKGROUP, 1700, 2, 500, 1.5),
    ("hbm3-5.2", Placement.BUFFER, 600, 2, 900, 0.0),
    ("hbm3e-9.2", Placement.BANK, 2500, 2, 333, 0.0),
    ("hbm3e-9.2", Placement.BANKGROUP, 1000, 2, 600, 6.0),
    ("hbm4-8.0", Placement.BANK, 3000, 3, 1200, 0.0),
    ("hbm4-8.0", Placement.BUFFER, 500, 2, 250, 0.0),
]


@pytest.mark.parametrize(("device", "placement", "length", "heads", "tokens", "interval"), CASES)
def test_time_beside_attention_is_that_of_full_programs(
    device: str, placement: Placement, length: int, heads: int, tokens: int, interval: float
) -> None:
    """Catches a cost per write of another placement, and a bound that is left out."""
    alone, beside, writes = full(device, placement, length, heads, tokens, interval)
    each = writes_of(device, placement)
    alone_ns = np.array([alone * each.clock_ns])
    found = each.beside(interval).added_ns(np.array([float(writes)]), alone_ns)[0] / each.clock_ns
    assert abs(alone + found - beside) <= TURN + SHARE * beside


def test_no_writes_add_nothing() -> None:
    """Catches a first turn without writes."""
    each = writes_of("hbm3-5.2", Placement.BANK)
    none = added_beside(each, np.zeros(2), np.array([0.0, 4.0]), np.array([1e4]))
    assert none.tolist() == [0, 0]
    assert each.append(0).time_ns == each.append(0).energy_pj == 0


def test_attention_meets_a_limited_number_of_writes() -> None:
    """Catches attention that waits for writes of any number: both take turns."""
    each = writes_of("hbm3-5.2", Placement.BANK)
    cost = each.beside(0)
    a, b = cost.added_ns(np.array([1e6, 1e9]), np.array([5e4]))
    assert a == b == cost.most * 5e4
    assert 0.8 < cost.most < 1.5  # turns of attention and of writes are equally long


def test_writes_between_two_intervals_cost_something_between() -> None:
    """Catches an interpolation that goes backwards, or that leaves a part out."""
    each = writes_of("hbm3-5.2", Placement.BANK)
    two, three, four = (each.beside(interval) for interval in (2, 2 * 2**0.5, 4))
    for name in ("first_ns", "access_ns", "most"):
        mean = (getattr(two, name) + getattr(four, name)) / 2
        assert isclose(getattr(three, name), mean)


def test_many_writes_alone_come_at_the_rate_of_the_interface() -> None:
    """Catches writes of one pseudo-channel, and padding that is not written."""
    each = writes_of("hbm3-5.2", Placement.BANK)
    device = DRAMS.load("hbm3-5.2")
    stream = streaming(device.organization, Kind.ST, 16_384 * 32)
    tables = resolve_timing(device, Placement.BANK, power_limited=True)
    ideal_ns = run(nothing(), tables, traffic=stream).time_ns / 16_384
    assert ideal_ns <= each.alone.time_ns <= 1.1 * ideal_ns


def test_a_write_takes_the_energy_of_the_whole_path() -> None:
    """Catches a segment between host and cell that is left out, or counted twice."""
    each, e = writes_of("hbm3-5.2", Placement.BANK), DRAM_ENERGIES.load("fgdram-2017")
    segments = (
        e.activate, e.cell, e.column_to_bank_group, e.bank_group_to_io, e.tsv, e.interposer
    )  # fmt: skip
    assert isclose(each.alone.energy_pj, 32 * 8 * sum(segments))
    assert isclose(each.append(3).energy_pj, 3 * 16 * each.alone.energy_pj)


def test_new_tokens_take_as_long_as_their_own_program() -> None:
    """Catches a head whose key or value is not stored, and tokens of one head that are lost."""
    each = writes_of("hbm3-5.2", Placement.BANK)
    assert each.writes_per_token == 16
    device = DRAMS.load("hbm3-5.2")
    layout = HeadLayout(device.organization, Placement.BANK, 128, ElementType.FP16, 2048)
    tables = resolve_timing(device, Placement.BANK, power_limited=True)
    regions = allocate_chunks(layout, [2048])
    one = run(nothing(), tables, traffic=token_writes(layout, regions, [[2047]]))
    assert each.append(1).time_ns == one.time_ns
    assert each.append(1).time_ns < each.append(4).time_ns < 4 * each.append(1).time_ns
    assert each.append(4).time_ns < each.append(4, 3).time_ns < 3 * each.append(4).time_ns


def test_heads_for_which_a_channel_has_little_room_are_timed_all_the_same() -> None:
    """Catches rows of other heads: a channel of 16,384 rows holds 1,000 heads of few keys only."""
    each = writes_of("hbm3-5.2", Placement.BANK)
    assert each.append(1000).time_ns > 100 * each.append(1).time_ns / 4


def test_schedules_with_barriers_are_interrupted_likewise() -> None:
    """Catches a schedule that never gives its channel to writes."""
    each = writes_of("hbm3-5.2", Placement.BANK, Schedule.COMPLETE)
    usual = writes_of("hbm3-5.2", Placement.BANK)
    assert each.longest is None
    assert isclose(each.beside(0).access_ns, usual.beside(0).access_ns, rel_tol=0.1)


def test_a_device_without_ordinary_writes_is_refused() -> None:
    """Catches writes that take no time where rules do not know them."""
    each = writes_of("hbm3-5.2-asplos24", Placement.BANK, Schedule.COMPLETE)
    with pytest.raises(InputError, match="no commands for ordinary reads and writes"):
        _ = each.alone
