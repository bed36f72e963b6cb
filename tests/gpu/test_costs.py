from math import isclose

from attacc.gpu.costs import EnergyBreakdown


def test_energies_add_and_scale_part_by_part() -> None:
    """Catches a part that is dropped or counted as another."""
    a = EnergyBreakdown(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    b = EnergyBreakdown(10.0, 20.0, 30.0, 40.0, 50.0, 60.0)
    assert a + b == EnergyBreakdown(11.0, 22.0, 33.0, 44.0, 55.0, 66.0)
    assert a.times(10.0) == b
    assert isclose((a + b).total_pj, 231.0)
