"""The compiled controllers against the naive ones, on random programs."""

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.pim.program.program import MULTIPLY
from attacc.pim.program.trace import NAMES, format_trace, parse_trace
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing
from tests import share
from tests.oracle import timing as oracle

pytestmark = pytest.mark.untraced  # the naive controllers would take three times as long

DEVICE = DRAMS.load("hbm3-5.2-asplos24")


@st.composite
def addresses(draw: st.DrawFn, multiply: bool) -> int:
    """Few rows and columns, so that rows are hit, missed and conflicting."""
    address = draw(st.integers(0, 2)) << 5 | draw(st.integers(0, 2)) << 10
    address |= draw(st.integers(0, 15)) << 24 | draw(st.integers(0, 1)) << 28
    return address if multiply else address | draw(st.integers(0, 1)) << 29


@st.composite
def traces(draw: st.DrawFn, placement: Placement) -> str:
    """Runs on neighbouring channels, as builders make them, and lone requests."""
    multiply = next(name for name, kind in NAMES.items() if kind is MULTIPLY[placement])
    others = ["PIM_WR_GB", "PIM_MV_SB", "PIM_MV_GB", "PIM_SFM", "PIM_BARRIER"]
    text = ""
    for name in draw(st.lists(st.sampled_from([multiply] * 8 + others), min_size=1, max_size=60)):
        address = draw(addresses(name == multiply))
        first = draw(st.sampled_from([0, 0, 0, 1, 7]))
        last = min(16, first + draw(st.sampled_from([1, 2, 16, 16])))
        text += "".join(f"{name} {c << 30 | address:#010x}\n" for c in range(first, last))
    return text


@pytest.mark.parametrize("placement", list(Placement))
@given(data=st.data())
@settings(max_examples=share.examples(__name__, 40, 16))
def test_kernel_and_oracle_issue_the_same_commands(
    placement: Placement, data: st.DataObject
) -> None:
    """Catches any difference in order, cycle or address of any command, and in the end."""
    text = data.draw(traces(placement))
    refresh = data.draw(st.sampled_from([(5070, 456), (700, 456), (300, 30)]))
    timing = {
        "nREFI": refresh[0],
        "nRFC": refresh[1],
        "nRCD": data.draw(st.integers(8, 25)),
        "nRP": data.draw(st.integers(1, 25)),
        # A row stays open until it can be read: otherwise two requests close it for each other.
        "nRAS": data.draw(st.integers(26, 50)),
        "nRC": data.draw(st.integers(1, 70)),
        "nRTPL": data.draw(st.integers(1, 10)),
        "nCCDS": data.draw(st.integers(1, 5)),
        "nCCDL": data.draw(st.integers(1, 9)),
        "nBL": data.draw(st.integers(1, 4)),
    }
    power_limited = data.draw(st.booleans())
    device = DEVICE.model_copy(update={"timing": DEVICE.timing | timing})

    program = parse_trace(text.encode(), device.organization, where="drawn")
    assert format_trace(program) == text
    try:
        tables = resolve_timing(device, placement, power_limited=power_limited)
        ours = run(program, tables, log=True)
    except InputError:
        reject()  # requests that close each other's rows for ever: the oracle would never end

    parameters = device.parameters(power_limited=power_limited)
    theirs = oracle.simulate(
        oracle.parse(text.splitlines()), placement=placement.value, timing=parameters
    )
    assert ours.log is not None
    log = [
        oracle.Command(
            c.cycle, c.command, c.channel, c.pseudo_channel, c.rank, c.bank_group, c.bank, c.row,
            c.column,
        )
        for c in ours.log
    ]  # fmt: skip
    assert sorted(log) == sorted(theirs.log)
    assert ours.cycles == theirs.cycles
