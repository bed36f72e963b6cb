"""Area of units that serve several queries with a read."""

import pytest

from attacc.hardware.placement import Placement
from attacc.pim.energy.area import die_share, unit_area


def test_the_papers_unit_takes_its_share_of_a_die() -> None:
    """Catches a share that is not the paper's (10.84 % of the die), or of units elsewhere."""
    share = die_share(1, Placement.BANK)
    assert share == pytest.approx((12.03 + 1.15) / 121)
    assert share == pytest.approx(0.1084, abs=0.001)
    assert die_share(1, Placement.BUFFER) is None


def test_wider_units_are_those_that_were_synthesised() -> None:
    """Catches an interpolation that misses its points, or goes beyond them."""
    assert [unit_area(n) for n in (1, 4, 8, 16, 32)] == [1, 1, 0.91, 1.55, 2.97]
    assert unit_area(24) == pytest.approx((1.55 + 2.97) / 2)
    assert unit_area(33) is die_share(33, Placement.BANK) is None
