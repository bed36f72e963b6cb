import pytest

from attacc.documents import parse_document
from attacc.errors import DocumentError
from attacc.hardware.link import LINKS, LinkSpec


@pytest.mark.parametrize("name", LINKS.names())
def test_every_preset_loads_and_names_its_sources(name: str) -> None:
    """Catches a preset that is malformed, misnamed, or without sources."""
    link = LINKS.load(name)
    assert link.name == name
    assert {"default", "energy"} <= link.sources.keys()
    assert link.collective is None or "collective" in link.sources


def test_a_direction_has_half_the_bandwidth() -> None:
    """Catches the data sheet's figure used for one direction."""
    assert LINKS.load("nvlink3").bytes_per_s == 300e9
    assert LINKS.load("nvlink4").bytes_per_s == 450e9


def test_a_fault_names_its_field() -> None:
    """Catches a unit of another dimension."""
    document = {
        "name": "mine",
        "bandwidth": "1 GB/s",
        "energy": "1 pJ/b",
        "collective": {"start": "1 us", "per_byte": "1 ns"},
    }
    with pytest.raises(DocumentError, match=r"collective.per_byte: unknown unit 'ns'"):
        parse_document(LinkSpec, document, where="mine.toml")
