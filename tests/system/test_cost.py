"""Silicon, prices and rated power, against figures worked by hand (docs/model/cost.md)."""

import pytest

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import SYSTEMS, load_system
from attacc.system.cost import (
    Ownership,
    dram_area,
    money,
    rated_power_w,
    rent_usd_per_h,
    stack_cost_usd,
    unit_share,
)

TODAY = [name for name in SYSTEMS.names() if name.startswith("8x")]


def test_units_take_the_papers_share_of_an_hbm3_die() -> None:
    """Catches an area that is not AttAcc's 13.18 of 121 mm2, and units of HBM4 that are too few."""
    hbm3, hbm4 = DRAMS.load("hbm3-5.2"), DRAMS.load("hbm4-8.0")
    assert unit_share(hbm3, 1, Placement.BANK) == pytest.approx(13.18 / 121)
    assert unit_share(hbm3, 8, Placement.BANK) == pytest.approx((12.03 * 0.91 + 1.15) / 121)
    assert unit_share(hbm3, 32, Placement.BANK) == pytest.approx((12.03 * 2.97 + 1.15) / 121)
    # Twice the channels on as many dies: 256 units on each.
    assert unit_share(hbm4, 1, Placement.BANK) == pytest.approx(2 * 13.18 / 121)


def test_the_area_of_units_that_nobody_has_made_is_refused() -> None:
    """Catches a share that is guessed."""
    hbm3 = DRAMS.load("hbm3-5.2")
    for queries, placement in ((33, Placement.BANK), (1, Placement.BANKGROUP)):
        with pytest.raises(InputError, match=r"attacc\.cost\.unit_share.*share of a die"):
            unit_share(hbm3, queries, placement)
    with pytest.raises(InputError, match="it does not state dies and die_area"):
        unit_share(DRAMS.load("hbm3-6.4"), 1, Placement.BANK)
    stated = load_system("8xh100-attacc-hbm3", **{"attacc.cost.unit_share": 0.25})
    area = dram_area(stated)
    assert area.units_mm2 == pytest.approx(0.25 * area.attaccs_mm2)


def test_silicon_grows_with_the_units_on_it() -> None:
    """Catches dies of the same size with less memory: 121 mm2 of cells stay on each die."""
    area = dram_area(load_system("8xh100-attacc-hbm3"))
    assert area.gpus_mm2 == 8 * 5 * 8 * 121
    assert area.attaccs_mm2 - area.units_mm2 == pytest.approx(40 * 8 * 121)
    assert area.units_mm2 / area.attaccs_mm2 == pytest.approx(0.1089, abs=1e-4)
    assert area.total_mm2 == area.gpus_mm2 + area.attaccs_mm2
    assert dram_area(load_system("8xh100")).attaccs_mm2 == 0


def test_an_attacc_costs_what_the_reference_works_out() -> None:
    """Catches a lost factor: 80 GB x 10 x 1.122 x 1.2 = 1,077, with 750, 600 and 30 beside them."""
    system = load_system("8xh100-attacc-hbm3")
    assert system.attacc is not None
    assert 5 * stack_cost_usd(system.attacc) == pytest.approx(1077.4, abs=0.1)
    found = money(system)
    assert found.attaccs_cost_usd == pytest.approx(8 * 2457.4, abs=1)
    assert found.gpus_cost_usd == 8 * 3320
    assert found.gpus_price_usd == 8 * 28_000
    margin = found.gpus_price_usd / found.gpus_cost_usd
    assert found.attaccs_price_usd == pytest.approx(margin * found.attaccs_cost_usd)
    assert found.node_price_usd == found.boards_price_usd + 31_500
    assert rent_usd_per_h(load_system("8xh100")) == pytest.approx(8 * 2.95)
    whole = rent_usd_per_h(system) / rent_usd_per_h(load_system("8xh100"))
    assert whole == pytest.approx(found.boards_cost_usd / found.gpus_cost_usd)


@pytest.mark.parametrize("name", TODAY)
def test_every_system_of_today_has_a_price_and_an_area(name: str) -> None:
    """Catches a preset without a number, and a device that is free or costs more than all GPUs."""
    system = load_system(name)
    found, plain = money(system), money(load_system(name.partition("-")[0]))
    assert found.gpus_price_usd == plain.gpus_price_usd
    assert (found.attaccs_cost_usd > 0) == (system.attacc is not None)
    assert found.attaccs_cost_usd < 2.1 * found.gpus_cost_usd
    assert dram_area(system).total_mm2 >= dram_area(load_system("8xh100")).total_mm2
    assert rated_power_w(system) >= rated_power_w(load_system(name.partition("-")[0]))


def test_rated_power_is_data_sheets_and_stacks_that_always_multiply() -> None:
    """Catches stacks at the wrong cadence, or devices without their base power."""
    gpus_w = rated_power_w(load_system("8xh200"))
    assert gpus_w == 8 * 700
    beside = rated_power_w(load_system("8xh200-attacc-hbm3")) - gpus_w - 8 * 29.4
    # docs/model/power.md: 32.4 W of reads and multiplies at a cadence of 6, with refresh, standby.
    assert beside / 40 == pytest.approx(32.4 + 0.67 + 4.22, abs=0.1)


def test_an_hour_of_work_is_capital_and_energy() -> None:
    """Catches watts for kilowatts, or idle hours that cost nothing: 28,000 over 24,528 h."""
    found = Ownership().usd_per_h(28_000, 700)
    assert found == pytest.approx(28_000 / 24_528 + 0.7 * 1.2 * 0.1)


def test_what_has_no_price_says_so() -> None:
    """Catches a price of nothing for a GPU that no data sheet prices."""
    with pytest.raises(InputError, match="GPU a100a: it does not state price and build_cost"):
        money(load_system("dgx-base"))
    with pytest.raises(InputError, match="GPU a100a: it does not state memory_stacks"):
        dram_area(load_system("dgx-base"))
    mine = load_system("8xh100", attention="attacc", attacc={
        "devices": 8, "stacks_per_device": 5, "placement": "bank",
    })  # fmt: skip
    with pytest.raises(InputError, match=r"it does not state the table \[attacc\.cost\]"):
        money(mine)
