"""Products timed on a stack: bounds, counts and energy by hand."""

import pytest

from attacc.errors import EngineError, InputError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import load_system
from attacc.models.precision import ElementType
from attacc.pim.energy.dram import DRAM_ENERGIES
from attacc.pim.product import AttaccProducts, StackProduct
from attacc.pim.program.product import ProductShape

FP16 = ElementType.FP16
PLACEMENTS = pytest.mark.parametrize("placement", list(Placement))
DEVICE = DRAMS.load("hbm3-5.2")


def count(product: StackProduct, command: str) -> int:
    return sum(each.count for each in product.commands if each.command == command)


@PLACEMENTS
@pytest.mark.parametrize("power_limited", [True, False])
def test_rate_of_a_large_product_is_next_to_the_units_peak(
    placement: Placement, power_limited: bool
) -> None:
    """Catches a schedule that leaves multiplies waiting, and one faster than the units.

    Without the limit at bank, rows are opened for fewer multiplies' worth of time.
    """
    columns = {Placement.BANK: 512, Placement.BANKGROUP: 128, Placement.BUFFER: 32}[placement]
    products = AttaccProducts(DEVICE, placement, power_limited=power_limited)
    product = products.multiply(ProductShape(32, 8192, columns, FP16))
    assert product.useful_share == 1
    assert (0.88 if power_limited else 0.8) < product.rate < 1
    assert product.time_ns == pytest.approx(product.cycles * DEVICE.clock_ns)


def test_weights_of_one_row_stay_open_for_all_rows() -> None:
    """Catches rows opened anew for every row of the activations.

    4 columns of each part take 8 accesses each, in all one DRAM row.
    """
    products = AttaccProducts(DEVICE, Placement.BANK)
    product = products.multiply(ProductShape(64, 8192, 64, FP16))
    assert (product.segments, product.inner_ways) == (1, 16)
    refreshes = count(product, "REFAB") + count(product, "REFab")
    channels = DEVICE.organization.channels
    assert count(product, "ACTAB") <= channels + refreshes


def test_chosen_layout_is_the_fastest_of_all_ways_to_cut_the_inner_dimension() -> None:
    """Catches an estimate that leaves the best layout untimed."""
    products = AttaccProducts(DEVICE, Placement.BANK)
    shape = ProductShape(54, 12288, 192, FP16)
    chosen = products.multiply(shape)
    every = [products.multiply(shape, inner_ways=ways) for ways in (1, 2, 4, 8, 16)]
    assert chosen.cycles == min(one.cycles for one in every)
    assert products.multiply(shape) is chosen


def test_two_rows_per_read_halve_reads_and_energy_of_cells() -> None:
    """Catches rows that are said to share reads, and do not."""
    shape = ProductShape(64, 4096, 256, FP16)
    one = AttaccProducts(DEVICE, Placement.BANK).multiply(shape, inner_ways=16)
    two = AttaccProducts(DEVICE, Placement.BANK, rows_per_read=2).multiply(shape, inner_ways=16)
    assert (one.passes, two.passes) == (64, 32)
    assert count(two, "MACAB") * 2 == count(one, "MACAB")
    assert two.energy.cell_pj * 2 == pytest.approx(one.energy.cell_pj)
    assert two.energy.multiply_pj == pytest.approx(one.energy.multiply_pj)
    # At most twice as fast, and slower than that for its shorter stretches of multiplies.
    assert 1.5 < one.cycles / two.cycles < 2.05


def test_energy_by_hand() -> None:
    """Catches bits counted twice, and a softmax that nobody asked for."""
    product = AttaccProducts(DEVICE, Placement.BANK).multiply(
        ProductShape(10, 1024, 256, FP16), inner_ways=16
    )
    energies = DRAM_ENERGIES.load(DEVICE.energy)
    # 16 channels x 10 rows x 16 columns per part x 1 access of each bank.
    multiplies = 16 * 10 * 16
    assert count(product, "MACAB") == multiplies
    bits = multiplies * 64 * 32 * 8
    assert product.energy.cell_pj == pytest.approx(bits * energies.cell)
    assert product.energy.multiply_pj == pytest.approx(bits / 16 * energies.multiply_add)
    assert product.energy.softmax_pj == 0


def test_products_of_a_system() -> None:
    """Catches stacks that are shared by the wrong number of GPUs."""
    products = AttaccProducts.of(load_system("dgx-attacc-bankgroup"))
    assert products.placement is Placement.BANKGROUP
    assert products.stacks_per_gpu == 5
    assert products.column_grain(FP16) == 16
    with pytest.raises(EngineError, match="has no AttAccs"):
        AttaccProducts.of(load_system("dgx-base"))


def test_device_without_latencies_is_refused() -> None:
    """Catches a product timed as if nothing had to be waited for."""
    products = AttaccProducts(DRAMS.load("hbm3-5.2-asplos24"), Placement.BANK)
    with pytest.raises(InputError, match="models no latencies"):
        products.multiply(ProductShape(1, 64, 64, FP16))
