import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from attacc.documents import Spec
from attacc.units import (
    UNITS,
    Bytes,
    BytesPerSecond,
    Nanoseconds,
    PicojoulesPerByte,
    Watts,
    parse_quantity,
)


class Quantities(Spec):
    """A document with one quantity of several dimensions."""

    memory: Bytes = 1.0
    bandwidth: BytesPerSecond = 1.0
    latency: Nanoseconds = 1.0
    power: Watts = 1.0
    energy: PicojoulesPerByte = 1.0


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("1 B", "bytes", 1),
        ("80 GB", "bytes", 80e9),
        ("80 GiB", "bytes", 80 * 2**30),
        ("192 KiB", "bytes", 196608),
        ("1.5 TiB", "bytes", 1.5 * 2**40),
        ("3352 GB/s", "bytes per second", 3352e9),
        ("3.352e3 GB/s", "bytes per second", 3352e9),
        ("1_000 MB/s", "bytes per second", 1e9),
        ("1_000.000_5 kB", "bytes", 1000000.5),
        ("312 TFLOPS", "operations per second", 312e12),
        ("624 TOPS", "operations per second", 624e12),
        ("666 MHz", "hertz", 666e6),
        ("350 ns", "nanoseconds", 350),
        ("8.29 us", "nanoseconds", 8290),
        ("1 ms", "nanoseconds", 1e6),
        ("2 s", "nanoseconds", 2e9),
        ("1 ps", "nanoseconds", 1e-3),
        ("0.009 ns/B", "nanoseconds per byte", 0.009),
        ("9 ps/B", "nanoseconds per byte", 0.009),
        ("400 W", "watts", 400),
        ("6.5 kW", "watts", 6500),
        ("20 mW", "watts", 0.02),
        ("0.32 pJ", "picojoules", 0.32),
        ("1 nJ", "picojoules", 1000),
        ("1.3 pJ/b", "picojoules per bit", 1.3),
        ("1.3 pJ/b", "picojoules per byte", 10.4),
        ("10.4 pJ/B", "picojoules per byte", 10.4),
        ("5.2 Gb/s", "bits per second", 5.2e9),
        ("0.094 mm2", "square millimetres", 0.094),
        ("  7B  ", "bytes", 7),
        ("+7 B", "bytes", 7),
        ("-7 B", "bytes", -7),
    ],
)
def test_quantities(text: str, dimension: str, value: float) -> None:
    """Catches a factor of 1000, 1024 or 8, and a prefix that is taken for another."""
    assert parse_quantity(text, dimension) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    ("value", "dimension", "message"),
    [
        (80, "bytes", r"bytes must be text with a unit, as in '1\.5 kB', not 80"),
        (None, "bytes", "not None"),
        ("80", "bytes", "'80' is not a number and a unit of bytes"),
        ("GB", "bytes", "'GB' is not a number and a unit"),
        ("", "bytes", "'' is not a number and a unit"),
        ("8 0 GB", "bytes", r"unknown unit '0' |not a number and a unit"),
        ("1,5 GB", "bytes", "is not a number and a unit"),
        (".5 GB", "bytes", "is not a number and a unit"),
        ("1__0 GB", "bytes", "'1__0 GB' is not a number and a unit"),
        ("1_ GB", "bytes", "'1_ GB' is not a number and a unit"),
        ("1_GB", "bytes", "'1_GB' is not a number and a unit"),
        ("_1 GB", "bytes", "is not a number and a unit"),
        ("\u0661\u0660 GB", "bytes", "is not a number and a unit"),
        ("\uff11 GB", "bytes", "is not a number and a unit"),
        ("nan GB", "bytes", "is not a number and a unit"),
        ("inf GB", "bytes", "is not a number and a unit"),
        ("80 gB", "bytes", r"unknown unit 'gB' for bytes: did you mean 'GB'"),
        ("80 GB/s", "bytes", "unknown unit 'GB/s' for bytes"),
        ("80 Gb/s", "bytes per second", "unknown unit 'Gb/s' for bytes per second"),
        ("1 pJ/B", "picojoules per bit", "unknown unit 'pJ/B' for picojoules per bit"),
        ("1e400 GB", "bytes", "is too large a number of bytes"),
        ("1e300 TB", "bytes", "is too large a number of bytes"),
    ],
)
def test_what_is_no_quantity_is_refused(value: object, dimension: str, message: str) -> None:
    """Catches a bare number, another dimension, and bits for bytes."""
    with pytest.raises(ValueError, match=message):
        parse_quantity(value, dimension)


@given(st.text(max_size=20), st.sampled_from(sorted(UNITS)))
def test_any_text_is_a_quantity_or_a_clear_error(text: str, dimension: str) -> None:
    """Catches another exception than the one that documents report."""
    try:
        parse_quantity(text, dimension)
    except ValueError as error:
        assert dimension in str(error)  # noqa: PT017 - or nothing is raised


@given(
    st.floats(1e-6, 1e9, allow_subnormal=False),
    st.sampled_from([(d, u) for d, units in UNITS.items() for u in units]),
)
def test_every_unit_scales(number: float, dimension_unit: tuple[str, str]) -> None:
    """Catches a unit that the pattern of numbers does not allow."""
    dimension, unit = dimension_unit
    expected = number * UNITS[dimension][unit]
    assert parse_quantity(f"{number!r} {unit}", dimension) == expected


def test_python_gives_base_units_and_documents_give_text() -> None:
    """Catches a document whose bare number is taken for a base unit."""
    assert Quantities(memory=5.0, latency=3).memory == 5.0
    document = {"bandwidth": "1 kB/s", "latency": "1 us", "power": "1 W", "energy": "1 pJ/b"}
    parsed = Quantities.model_validate(document, context={"document": "mine.toml"})
    assert (parsed.bandwidth, parsed.latency, parsed.power, parsed.energy) == (1e3, 1e3, 1, 8)
    with pytest.raises(ValidationError, match="must be text with a unit"):
        Quantities.model_validate({"memory": 5}, context={"document": "mine.toml"})


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "0 B", "-3 GB"])
def test_quantities_are_positive(value: float | str) -> None:
    """Catches a memory of nothing, or of less."""
    with pytest.raises(ValidationError, match="must be a positive number of bytes"):
        Quantities.model_validate({"memory": value})
