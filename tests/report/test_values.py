"""How figures are written for people."""

import pytest

from attacc.hardware.placement import Placement
from attacc.report import values


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 B/s"),
        (1.0, "1.000 B/s"),
        (12.345, "12.35 B/s"),
        (999.94, "999.9 B/s"),
        (999.96, "1.000 kB/s"),
        (665.8e9, "665.8 GB/s"),
        (999_999.9e9, "1.000 PB/s"),
        (1.234e19, "12,340 PB/s"),
        (0.0123, "12.30 mB/s"),
        (3.2e-7, "320.0 nB/s"),
        (1e-15, "0.001 pB/s"),
    ],
)
def test_prefix_and_digits(value: float, text: str) -> None:
    """A factor of 1000 between number and prefix, or 1000.0 where the next prefix begins."""
    assert values.scaled(value, "B/s") == text


def test_base_units() -> None:
    """Nanoseconds and picojoules taken for seconds and joules."""
    assert values.time(1500.0) == "1.500 \N{MICRO SIGN}s"
    assert values.energy(2.5e9) == "2.500 mJ"


def test_counts_and_shares() -> None:
    """Digits that run together; a share a hundred times too small."""
    assert values.count(1234567) == "1,234,567"
    assert values.percent(0.6798) == "68.0%"


def test_every_placement_has_words() -> None:
    """A placement without words fails only when someone asks for it."""
    assert len({values.units_at(placement) for placement in Placement}) == len(Placement)


def test_power_words() -> None:
    """The two the wrong way round."""
    assert values.power_words(limited=True).endswith("of the power limit")
    assert values.power_words(limited=False).endswith("without a power limit")
