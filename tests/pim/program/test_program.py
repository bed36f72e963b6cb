import numpy as np
import pytest

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS, Organization
from attacc.hardware.placement import Placement
from attacc.pim.program.program import AddressLayout, Kind, Program

HBM3 = DRAMS.load("hbm3-5.2-asplos24").organization


def program(*steps: tuple[Kind, int, int, int]) -> Program:
    """Steps of kind, address, first channel and number of channels."""
    kind, address, first, channels = zip(*steps, strict=True) if steps else ((), (), (), ())
    return Program(
        HBM3,
        np.array(kind, dtype=np.uint8),
        np.array(address, dtype=np.int64),
        np.array(first, dtype=np.int16),
        np.array(channels, dtype=np.int16),
    )


def test_requests_are_counted_per_channel() -> None:
    """Catches a step that counts once although it goes to many channels."""
    one = program((Kind.MACAB, 0, 0, 16), (Kind.MACAB, 32, 3, 2), (Kind.SFM, 0, 1, 5))
    assert len(one) == 3
    assert one.requests == 23
    assert (one.count(Kind.MACAB), one.count(Kind.SFM), one.count(Kind.WRGB)) == (18, 5, 0)
    assert one.counts() == {Kind.MACAB: 18, Kind.SFM: 5}
    assert program().counts() == {}
    assert program().requests == 0


@pytest.mark.parametrize(
    ("kind", "placement"),
    [
        (Kind.MACAB, Placement.BANK),
        (Kind.MACSB, Placement.BANKGROUP),
        (Kind.MACPB, Placement.BUFFER),
        (Kind.SFM, Placement.BANK),
    ],
)
def test_the_placement_is_that_of_the_multiplies(kind: Kind, placement: Placement) -> None:
    """Catches a trace that is timed with the commands of another placement."""
    assert program((Kind.WRGB, 0, 0, 16), (kind, 0, 0, 16)).placement() is placement


def test_mixed_placements_are_refused() -> None:
    """Catches a trace for two kinds of stacks that is timed as one of them."""
    mixed = program((Kind.MACAB, 0, 0, 1), (Kind.MACPB, 0, 0, 1))
    with pytest.raises(InputError, match=r"mixes MACAB and MACPB \(a stack has the units of one"):
        mixed.placement()


def test_addresses_of_hbm3() -> None:
    """Catches fields that are not where the traces of reference/controller.md have them."""
    assert AddressLayout.of(HBM3) == AddressLayout(5, 10, 24, 26, 28, 29, 30, 34)


def test_addresses_of_another_organisation() -> None:
    """Catches widths that are those of HBM3."""
    small = Organization(
        channels=2, pseudo_channels=1, ranks=1, bank_groups=8, banks=2, rows=64, columns=128,
        access_bytes=64,
    )  # fmt: skip
    assert AddressLayout.of(small) == AddressLayout(6, 13, 19, 20, 23, 23, 23, 24)
    assert 1 << AddressLayout.of(small).end == small.stack_bytes
