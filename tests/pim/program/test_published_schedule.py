import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.mapping.geometry import HeadLayout
from attacc.pim.program.schedule import attention_program
from attacc.pim.program.trace import format_trace
from tests import share
from tests.oracle import schedule as oracle

HBM3 = DRAMS.load("hbm3-5.2-asplos24").organization


@given(
    placement=st.sampled_from(list(Placement)),
    heads=st.integers(1, 50),
    length=st.integers(1, 600),
    head_dim=st.integers(1, 200),
    element=st.sampled_from([ElementType.FP16, ElementType.INT8]),
)
@settings(max_examples=share.examples(__name__, 40, 16))
@example(Placement.BANK, 1, 1, 1, ElementType.FP16)
@example(Placement.BUFFER, 17, 33, 128, ElementType.INT8)
@example(Placement.BANKGROUP, 48, 4096, 64, ElementType.FP16)
def test_text_of_the_naive_schedule(
    placement: Placement, heads: int, length: int, head_dim: int, element: ElementType
) -> None:
    """Catches any command that the published order drops, repeats or places otherwise."""
    layout = HeadLayout(HBM3, placement, head_dim, element, length)
    text = format_trace(attention_program(layout, heads, Schedule.PUBLISHED))
    naive = oracle.published(placement.value, heads, length, head_dim, int(element.bytes))
    assert text.splitlines() == naive


def test_rounds_that_lead_beyond_the_channel_are_refused() -> None:
    """Catches addresses of another channel, which the kernel would take for banks."""
    layout = HeadLayout(HBM3, Placement.BANK, 2**16, ElementType.FP16, 16)
    attention_program(layout, 16, Schedule.PUBLISHED)
    with pytest.raises(
        InputError, match=r"published schedule of 4096 heads.*beyond the 1073741824"
    ):
        attention_program(layout, 4096, Schedule.PUBLISHED)
    with pytest.raises(InputError, match="need 16448 rows of every bank, which has 16384"):
        attention_program(layout, 4097, Schedule.PUBLISHED)


@pytest.mark.parametrize("schedule", [Schedule.COMPLETE, Schedule.PUBLISHED])
def test_no_heads_are_refused(schedule: Schedule) -> None:
    """Catches an empty program where there is a question about none."""
    layout = HeadLayout(HBM3, Placement.BANK, 64, ElementType.FP16, 16)
    for heads in (0, -1):
        with pytest.raises(InputError, match=f"heads = {heads} must be at least 1"):
            attention_program(layout, heads, schedule)
