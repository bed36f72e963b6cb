from math import isclose

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.energy.dram import DRAM_ENERGIES, AttentionEnergy, attention_energy
from attacc.pim.mapping.geometry import HeadLayout
from attacc.pim.program.schedule import attention_program
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing

DEVICE = DRAMS.load("hbm3-5.2-asplos24")
ENERGY = DRAM_ENERGIES.load("fgdram-2017")
BANK, BANKGROUP, BUFFER = Placement


def cost(
    placement: Placement,
    heads: int,
    length: int,
    head_dim: int = 64,
    element: ElementType = ElementType.FP16,
) -> AttentionEnergy:
    layout = HeadLayout(DEVICE.organization, placement, head_dim, element, length)
    program = attention_program(layout, heads, Schedule.COMPLETE)
    timed = run(program, resolve_timing(DEVICE, placement, power_limited=True))
    banks = DEVICE.banks_per_command(placement)
    return attention_energy(timed, layout, heads * layout.length, ENERGY, banks_per_multiply=banks)


def test_the_preset_names_its_sources() -> None:
    """Catches figures without a source, and segments that do not add up to the whole path.

    3.59 pJ/b from the cells to the host (reference/system-model.md, energy).
    """
    assert {"default", "multiply_add"} <= ENERGY.sources.keys()
    whole = (
        ENERGY.activate
        + ENERGY.cell
        + ENERGY.column_to_bank_group
        + ENERGY.bank_group_to_io
        + ENERGY.tsv
        + ENERGY.interposer
    )
    assert isclose(whole, 3.59)


@pytest.mark.parametrize(
    ("placement", "access", "rest"),
    [(BANK, 0.55, 2.74), (BANKGROUP, 1.56, 1.73), (BUFFER, 3.29, 0.0)],
)
def test_paths_of_the_placements(placement: Placement, access: float, rest: float) -> None:
    """Catches a segment on the wrong side of a unit (reference/system-model.md, energy)."""
    cells = ENERGY.activate + ENERGY.cell
    assert isclose(cells + ENERGY.cell_to_unit(placement), access)
    assert isclose(ENERGY.unit_to_buffer_die(placement), rest)


@pytest.mark.parametrize(
    ("placement", "columns", "moves_in", "moves_inside", "path", "way"),
    [
        # 16 keys of 64 fp16 elements on one channel: 4 columns of 16 elements a key.
        # bank: 1 + 1 multiplies of 64 banks; 4 WRGB; 8 + 8 MVSB and 8 MVGB.
        (BANK, 2 * 64, 4, 24, 0.0, 1.01 + 1.23 + 0.5),
        # bankgroup: 4 + 4 multiplies of 16 banks; 4 WRGB; 8 + 4 x 2 MVSB and 8 MVGB.
        (BANKGROUP, 8 * 16, 4, 24, 1.01, 1.23 + 0.5),
        # buffer: 8 keys per part: 32 + 32 multiplies of 2 banks; 4 WRGB; 1 + 4 MVSB and 1 MVGB.
        (BUFFER, 64 * 2, 4, 6, 1.01 + 1.23 + 0.5, 0.0),
    ],
)
def test_a_tiny_head_by_hand(
    placement: Placement, columns: int, moves_in: int, moves_inside: int, path: float, way: float
) -> None:
    """Catches a factor: banks, bits, pseudo-channels, multiplies, operations of the softmax."""
    energy = cost(placement, heads=1, length=16)
    bits, move_bits = columns * 32 * 8, 2 * 32 * 8
    assert isclose(energy.activate_pj, bits * 0.11)
    assert isclose(energy.cell_pj, bits * 0.44)
    assert isclose(energy.read_path_pj, bits * path)
    assert isclose(energy.multiply_pj, columns * 16 * 0.32)
    assert isclose(
        energy.move_pj, moves_in * move_bits * (way + 0.3) + moves_inside * move_bits * way
    )
    assert isclose(energy.softmax_pj, 16 * 5 * 0.16)


@pytest.mark.parametrize("placement", list(Placement))
def test_heads_cost_the_same_each(placement: Placement) -> None:
    """Catches the softmax, or a command, that is counted once for all heads."""
    one, many = cost(placement, 1, 300), cost(placement, 37, 300)
    for name in ("activate", "cell", "read_path", "multiply", "move", "softmax"):
        assert isclose(getattr(many, f"{name}_pj"), 37 * getattr(one, f"{name}_pj"))


@given(
    heads=st.integers(1, 40),
    length=st.integers(1, 500),
    head_dim=st.integers(1, 130),
    element=st.sampled_from(list(ElementType)),
)
@settings(max_examples=20)
def test_reading_gets_dearer_with_the_distance(
    heads: int, length: int, head_dim: int, element: ElementType
) -> None:
    """Catches components that are missing from the total, and placements that are swapped."""
    costs = {p: cost(p, heads, length, head_dim, element) for p in Placement}
    for energy in costs.values():
        parts = (
            energy.activate_pj
            + energy.cell_pj
            + energy.read_path_pj
            + energy.multiply_pj
            + energy.move_pj
            + energy.softmax_pj
        )
        assert isclose(energy.total_pj, parts)
        assert energy.softmax_pj == costs[BANK].softmax_pj
    assert costs[BANK].read_path_pj == 0
    # Per bit, since the placements pad differently.
    bankgroup, buffer = (costs[p].read_path_pj / costs[p].cell_pj for p in (BANKGROUP, BUFFER))
    assert 0 < bankgroup < buffer
