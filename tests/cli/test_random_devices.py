"""Random device files: an answer in full, or one message that names the file."""

import copy
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.console import DEVICE_FILE, check_refusal, invoke, refusal

pytestmark = pytest.mark.untraced  # hundreds of documents would take twice as long

KEYS = st.one_of(st.sampled_from(["name", "clock", "timing", "nRCD", "rows", "rules"]), st.text())
LEAVES = st.one_of(
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(),
    st.sampled_from(["1 ns", "5 Gb/s", "1 GB", "attacc-pim", "fgdram-2017", "0x10"]),
)
VALUES = st.recursive(
    LEAVES,
    lambda nested: st.lists(nested, max_size=3) | st.dictionaries(KEYS, nested, max_size=3),
    max_leaves=8,
)
DEVICE: Final[dict[str, Any]] = tomllib.loads(DEVICE_FILE)


def places() -> list[tuple[str, ...]]:
    """Return the path of every field of the device."""
    found: list[tuple[str, ...]] = []
    for name, value in DEVICE.items():
        keys = list(cast("dict[str, object]", value)) if isinstance(value, dict) else []
        found += [(name, key) for key in keys] or [(name,)]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trace, for the many examples of one property."""
    path = tmp_path_factory.mktemp("devices")
    (path / "short.trace").write_text("PIM_WR_GB 0x0\nPIM_MAC_AB 0x0\nPIM_MV_SB 0x0\n")
    return path


def toml(value: object) -> str:
    """Write a value as TOML, tables inline."""
    match value:
        case dict():
            items = cast("dict[str, object]", value).items()
            return "{" + ", ".join(f"{toml(key)} = {toml(nested)}" for key, nested in items) + "}"
        case list():
            return "[" + ", ".join(map(toml, cast("list[object]", value))) + "]"
        case bool():
            return str(value).lower()
        case str():
            return '"' + "".join(map(character, value)) + '"'
        case _:
            return repr(value)


def character(c: str) -> str:
    """Write one character inside a basic string of TOML."""
    return f"\\U{ord(c):08x}" if c < " " or c in '\\"\x7f' else c


def write(device: Path, document: Mapping[str, object]) -> None:
    lines = [f"{toml(key)} = {toml(value)}\n" for key, value in document.items()]
    device.write_text("".join(lines), encoding="utf-8")


def changed(place: tuple[str, ...], *value: object) -> dict[str, Any]:
    """Return the device with another value at a place, or with none."""
    document = copy.deepcopy(DEVICE)
    *tables, key = place
    table = document[tables[0]] if tables else document
    del table[key]
    if value:
        table[key] = value[0]
    return document


def check(folder: Path, device: Path, *, may_be_valid: bool) -> None:
    """Play a trace and attend on a device."""
    log = folder / "log"
    for command in (
        ("trace", "run", str(folder / "short.trace"), "--log", str(log)),
        (
            "attention", "--heads", "3", "--length", "40", "--placement", "bankgroup",
            "--schedule", "complete",
        ),
    ):  # fmt: skip
        result = invoke(*command, "--device", str(device), "--json")
        if may_be_valid and result.exit_code == 0:
            json.loads(result.stdout)
            log.unlink(missing_ok=True)
            continue
        assert result.exit_code == 2, (result.output, result.exception)
        check_refusal(result.stdout, result.stderr)
        assert not log.exists()


@given(content=st.text())
def test_random_text(folder: Path, content: str) -> None:
    """Text that is no TOML, or no device."""
    device = folder / "random.toml"
    device.write_bytes(content.encode("utf-8", "surrogatepass"))
    message = refusal("trace", "run", folder / "short.trace", "--device", device)
    assert str(device) in message


@given(document=st.dictionaries(KEYS, VALUES, max_size=6))
def test_random_document(folder: Path, document: dict[str, object]) -> None:
    """Well-formed TOML of anything but a device."""
    device = folder / "random.toml"
    write(device, document)
    check(folder, device, may_be_valid=False)


@given(
    place=st.sampled_from(places()),
    value=st.one_of(VALUES, st.integers(-1, 40), st.sampled_from([2**k for k in range(26)])),
)
def test_device_with_one_other_value(folder: Path, place: tuple[str, ...], value: object) -> None:
    """A value that passes the checks of the file, and then fails inside the engine."""
    device = folder / "changed.toml"
    write(device, changed(place, value))
    check(folder, device, may_be_valid=True)


@pytest.mark.parametrize("place", places(), ids=".".join)
def test_device_without_one_field(folder: Path, place: tuple[str, ...]) -> None:
    """A missing field that is given a value in silence."""
    device = folder / "changed.toml"
    write(device, changed(place))
    check(folder, device, may_be_valid=False)
