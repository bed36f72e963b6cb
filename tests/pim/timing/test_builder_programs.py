"""Programs of the builder, both schedules, against the naive controllers."""

import pytest

from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.mapping.geometry import HeadLayout
from attacc.pim.program.schedule import attention_program
from attacc.pim.program.trace import format_trace
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing
from tests.oracle import timing as oracle

pytestmark = pytest.mark.untraced  # the naive controllers would take three times as long

SIZES = [
    # Short and even; a last round of few channels and a length that fills no part; three rounds.
    (4, 32, 64, ElementType.FP16),
    (18, 70, 96, ElementType.FP16),
    (33, 17, 32, ElementType.INT8),
]


@pytest.mark.parametrize("schedule", [Schedule.COMPLETE, Schedule.PUBLISHED])
@pytest.mark.parametrize("placement", list(Placement))
@pytest.mark.parametrize(("heads", "length", "head_dim", "element"), SIZES)
@pytest.mark.parametrize(
    ("name", "overrides", "power_limited"),
    [("hbm3-5.2-asplos24", {}, False), ("hbm3-6.4-asplos24", {"nREFI": 300, "nRFC": 60}, True)],
)
def test_kernel_and_oracle_agree_on_attention(
    schedule: Schedule,
    placement: Placement,
    heads: int,
    length: int,
    head_dim: int,
    element: ElementType,
    name: str,
    overrides: dict[str, int],
    power_limited: bool,
) -> None:
    """Catches what random programs are too short or too irregular to reach."""
    preset = DRAMS.load(name)
    device = preset.model_copy(update={"timing": preset.timing | overrides})
    layout = HeadLayout(device.organization, placement, head_dim, element, length)
    program = attention_program(layout, heads, schedule)
    tables = resolve_timing(device, placement, power_limited=power_limited)
    ours = run(program, tables, log=True)

    theirs = oracle.simulate(
        oracle.parse(format_trace(program).splitlines()),
        placement=placement.value,
        timing=device.parameters(power_limited=power_limited),
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
