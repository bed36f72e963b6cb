"""Programs with dependences: the compiled controllers against the naive ones."""

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS, DramDevice
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.mapping.balance import assign
from attacc.pim.mapping.geometry import KeyLayout
from attacc.pim.program.interleaved import chunk_grain, interleaved_program, longest_chunk
from attacc.pim.program.program import MULTIPLY, Kind, Program
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing
from tests import share
from tests.oracle import timing as oracle
from tests.property.steps import Step, logged, oracle_requests, program_of

pytestmark = pytest.mark.untraced  # the naive controllers would take three times as long

DEVICE = DRAMS.load("hbm3-5.2")


def check(
    program: Program, device: DramDevice, placement: Placement, *, power_limited: bool
) -> None:
    """Raise if kernel and oracle differ in any command or in the end."""
    ours = run(program, resolve_timing(device, placement, power_limited=power_limited), log=True)
    theirs = oracle.simulate_dependent(
        oracle_requests(program),
        placement=placement.value,
        timing=device.parameters(power_limited=power_limited),
        moves_yield=not device.moves_pass_hits,
        device=oracle.Device(rules="hbm-pim"),
    )
    assert ours.log is not None
    assert sorted(logged(ours.log)) == sorted(theirs.log)
    assert ours.cycles == theirs.cycles


@st.composite
def programs(draw: st.DrawFn, placement: Placement) -> Program:
    """Runs on neighbouring channels whose steps wait only for what earlier ones signal."""
    multiply = MULTIPLY[placement]
    kinds = [multiply] * 8 + [Kind.WRGB, Kind.MVSB, Kind.MVGB, Kind.SFM, Kind.BARRIER]
    drawn = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=60))
    events = draw(st.integers(1, 8))
    signal = st.builds(
        oracle.Signal, st.integers(1, events), st.sampled_from([0, 1, 3, 31, 200, 900])
    )
    signals = [
        () if kind is Kind.BARRIER else tuple(draw(st.lists(signal, max_size=3))) for kind in drawn
    ]
    last = {one.event: i for i, row in enumerate(signals) for one in row}
    steps: list[Step] = []
    for i, kind in enumerate(drawn):
        known = [event for event in range(1, events + 1) if last.get(event, -1) < i]
        waits = draw(st.sampled_from([0, 0, *known])) if kind is not Kind.BARRIER else 0
        address = draw(st.integers(0, 2)) << 5 | draw(st.integers(0, 2)) << 10
        address |= draw(st.integers(0, 15)) << 24 | draw(st.integers(0, 1)) << 28
        if kind is not multiply:
            address |= draw(st.integers(0, 1)) << 29
        first = draw(st.sampled_from([0, 0, 0, 1, 7]))
        channels = min(16 - first, draw(st.sampled_from([1, 2, 16, 16])))
        steps.append(Step(kind, address, first, channels, waits, signals[i]))
    return program_of(steps)


@pytest.mark.parametrize("moves_pass_hits", [True, False])
@pytest.mark.parametrize("placement", list(Placement))
@given(data=st.data())
@settings(max_examples=share.examples(__name__, 30, 8))
def test_kernel_and_oracle_agree_on_random_dependences(
    placement: Placement, moves_pass_hits: bool, data: st.DataObject
) -> None:
    """Catches a step that issues before its event, an event that is late, and any new order."""
    refresh = data.draw(st.sampled_from([(5070, 456), (700, 300), (300, 30)]))
    timing = {
        "nREFI": refresh[0],
        "nRFC": refresh[1],
        "nRCDRD": data.draw(st.integers(8, 25)),
        "nRP": data.draw(st.integers(1, 25)),
        "nRAS": data.draw(st.integers(26, 50)),
        "nRC": data.draw(st.integers(1, 70)),
        "nRTPL": data.draw(st.integers(1, 10)),
        "nCCDS": data.draw(st.integers(1, 5)),
        "nCCDL": data.draw(st.integers(1, 9)),
        "nBL": data.draw(st.integers(1, 4)),
    }
    changes = {"timing": DEVICE.timing | timing, "moves_pass_hits": moves_pass_hits}
    device = DEVICE.model_copy(update=changes)
    program = data.draw(programs(placement))
    power_limited = data.draw(st.booleans())
    try:
        run(program, resolve_timing(device, placement, power_limited=power_limited))
    except InputError:
        reject()  # requests that close each other's rows for ever: the oracle would never end
    check(program, device, placement, power_limited=power_limited)


@pytest.mark.parametrize("placement", list(Placement))
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40),
    head_dim=st.sampled_from([32, 64, 96]),
    element=st.sampled_from([ElementType.FP16, ElementType.INT8]),
    power_limited=st.booleans(),
)
@settings(max_examples=share.examples(__name__, 8, 4))
def test_kernel_and_oracle_agree_on_interleaved_programs(
    placement: Placement,
    lengths: list[int],
    head_dim: int,
    element: ElementType,
    power_limited: bool,
) -> None:
    """Catches differences on what is really run: channels of different programs, long queues."""
    layout = KeyLayout(DEVICE.organization, placement, head_dim, element)
    assignment = assign(
        lengths, channels=16, longest=longest_chunk(DEVICE, layout), grain=chunk_grain(layout)
    )
    tables = resolve_timing(DEVICE, placement, power_limited=power_limited)
    program = interleaved_program(
        DEVICE, layout, assignment, multiply_interval=tables.multiply_interval
    )
    check(program, DEVICE, placement, power_limited=power_limited)


def test_a_step_waits_to_the_cycle() -> None:
    """Catches an event that takes effect a cycle early or late."""
    steps = [
        Step(Kind.WRGB, 0, 0, 1, signals=(oracle.Signal(1, 9), oracle.Signal(2, 100))),
        Step(Kind.MVSB, 1 << 28, 0, 1, waits=1),
        Step(Kind.MVGB, 0, 0, 1, waits=2),
        Step(Kind.SFM, 1 << 28, 0, 1),
    ]
    log = run(
        program_of(steps), resolve_timing(DEVICE, Placement.BANK, power_limited=True), log=True
    )
    assert [(c.cycle, c.command) for c in log.log or ()] == [
        (1, "WRGB"), (3, "SFM"), (10, "MVSB"), (101, "MVGB"),
    ]  # fmt: skip


def test_a_program_that_waits_for_a_later_step_behind_a_full_queue_is_refused() -> None:
    """Catches an engine that hangs, instead of saying what is wrong."""
    steps = [Step(Kind.MVSB, 0, 0, 1, waits=1)] * 33
    steps.append(Step(Kind.WRGB, 0, 0, 1, signals=(oracle.Signal(1, 0),)))
    with pytest.raises(InputError, match="waits for what only a later one produces"):
        run(program_of(steps), resolve_timing(DEVICE, Placement.BANK, power_limited=True))
