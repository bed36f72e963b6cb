"""``attacc attention``."""

from pathlib import Path

import pytest

from attacc.cli import options
from attacc.errors import UnknownNameError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType, Precision
from attacc.system.stack import Stack
from tests.cli.console import DEVICE_FILE, answer, document, refusal

SHAPE = ("--heads", "20", "--length", "300")
KEYS = [
    "device",
    "placement",
    "power_limited",
    "schedule",
    "heads",
    "length",
    "head_dim",
    "dtype",
    "cycles",
    "time_ns",
    "kv_bytes",
    "read_bytes",
    "achieved_bytes_per_s",
    "internal_peak_bytes_per_s",
    "external_peak_bytes_per_s",
    "achieved_over_internal_peak",
    "achieved_over_external_peak",
    "commands",
    "energy",
    "average_power_w",
]
PARTS = ["activate", "cell", "read_path", "multiply", "move", "softmax", "total"]


@pytest.mark.parametrize("placement", list(Placement))
@pytest.mark.parametrize("schedule", [Schedule.COMPLETE, Schedule.PUBLISHED])
@pytest.mark.parametrize("power_limited", [True, False])
@pytest.mark.parametrize("element", [ElementType.FP16, ElementType.FP8])
def test_answer_is_that_of_the_library(
    placement: Placement, schedule: Schedule, power_limited: bool, element: ElementType
) -> None:
    """An option that does not reach the stack, a figure from the wrong place, a slipped unit."""
    device = DRAMS.load("hbm3-4.8-asplos24")
    stack = Stack(device, placement, power_limited=power_limited, schedule=schedule)
    expected = stack.attend(heads=20, length=300, head_dim=96, element=element)
    got = document(
        "attention", *SHAPE, "--head-dim", "96", "--dtype", element, "--placement", placement,
        "--device", "hbm3-4.8-asplos24", "--schedule", schedule,
        "--power-limit" if power_limited else "--no-power-limit",
    )  # fmt: skip
    assert list(got) == KEYS
    for key in ("device", "placement", "power_limited", "schedule", "heads", "length", "head_dim"):
        assert got[key] == getattr(expected, key)
    for key in ("cycles", "time_ns", "kv_bytes", "read_bytes", "achieved_bytes_per_s"):
        assert got[key] == getattr(expected, key)
    assert got["dtype"] == element
    assert got["internal_peak_bytes_per_s"] == expected.internal_bytes_per_s
    assert got["external_peak_bytes_per_s"] == expected.external_bytes_per_s
    assert got["commands"] == {entry.command: entry.count for entry in expected.commands}
    assert list(got["energy"]) == [f"{part}_pj" for part in PARTS]
    assert got["energy"] == {f"{part}_pj": getattr(expected.energy, f"{part}_pj") for part in PARTS}


def test_derived_figures() -> None:
    """Ratios the wrong way round; watts that are milliwatts (1 pJ/ns is 1 mW)."""
    got = document("attention", *SHAPE)
    achieved = got["achieved_bytes_per_s"]
    assert achieved == pytest.approx(got["kv_bytes"] / got["time_ns"] * 1e9)
    assert got["achieved_over_internal_peak"] == achieved / got["internal_peak_bytes_per_s"] < 1
    assert got["achieved_over_external_peak"] == achieved / got["external_peak_bytes_per_s"]
    assert got["average_power_w"] == pytest.approx(
        got["energy"]["total_pj"] / got["time_ns"] / 1000
    )


def test_defaults() -> None:
    """A default that changes without notice changes what everybody's figures mean."""
    got = document("attention", *SHAPE)
    assert got["device"] == "hbm3-5.2-asplos24"
    assert (got["placement"], got["schedule"], got["power_limited"]) == ("bank", "complete", True)
    assert (got["head_dim"], got["dtype"]) == (128, "fp16")


@pytest.mark.parametrize("placement", list(Placement))
def test_tables(placement: Placement) -> None:
    """A table that fails for a placement, or tells other figures than the JSON."""
    got = document("attention", *SHAPE, "--placement", placement)
    text = answer("attention", *SHAPE, "--placement", placement)
    assert f"{got['cycles']:,} cycles" in text
    assert f"achieved {got['achieved_over_internal_peak']:.1%}" in text
    for name, issued in got["commands"].items():
        assert [name, f"{issued:,}"] in [line.split() for line in text.splitlines()]
    for part in PARTS:
        assert part.replace("_", " ") in text


@pytest.mark.parametrize(
    ("option", "value", "parts"),
    [
        ("--placement", "banks", ["'banks'", "'bank'", "bankgroup", "buffer"]),
        ("--placement", "BANK", ["'BANK'", "'bank'"]),
        ("--schedule", "complet", ["'complet'", "'complete'"]),
        ("--dtype", "fp17", ["'fp17'", "'fp16'", "bf16"]),
        ("--dtype", "int4", ["'int4'", "'int8'"]),
        ("--device", "hbm3-5.2-asplos", ["'hbm3-5.2-asplos'", "'hbm3-5.2-asplos24'"]),
        ("--heads", "0", ["0", "1 to"]),
        ("--heads", "-3", ["-3"]),
        ("--length", "0", ["0"]),
        ("--length", "1.5", ["'1.5'", "whole number"]),
        ("--length", "", ["''"]),
        ("--head-dim", "-1", ["-1"]),
        ("--head-dim", "9" * 5000, ["whole number"]),
        ("--heads", "9" * 30, ["out of range"]),
    ],
)
def test_bad_options(option: str, value: str, parts: list[str]) -> None:
    """A message without the option, the value or the way out."""
    given = dict(zip(SHAPE[::2], SHAPE[1::2], strict=True)) | {option: value}
    message = refusal("attention", *(word for pair in given.items() for word in pair))
    for part in (f"{option}: ", *parts):
        assert part in message


@pytest.mark.parametrize("schedule", [Schedule.COMPLETE, Schedule.PUBLISHED])
@pytest.mark.parametrize("placement", list(Placement))
def test_heads_that_do_not_fit(schedule: Schedule, placement: Placement) -> None:
    """Either schedule would compute with addresses beyond the bank, or run out of memory."""
    message = refusal(
        "attention", "--heads", "100000", "--length", "32768",
        "--schedule", schedule, "--placement", placement,
    )  # fmt: skip
    assert "rows of every bank, which has 16384" in message
    assert "such heads fit" in message


def test_long_sequences() -> None:
    """The command must take every length up to 32,768, one key included."""
    for length in ("1", "32768"):
        got = document("attention", "--heads", "1", "--length", length)
        assert got["kv_bytes"] == 2 * int(length) * 128 * 2


def test_device_file_with_an_unknown_key(tmp_path: Path) -> None:
    """The same checks as for traces; the key and its nearest."""
    path = tmp_path / "mine.json"
    path.write_text('{"name": "mine", "clok": "1 ns"}')
    message = refusal("attention", *SHAPE, "--device", path)
    assert f"{path}: clok: unknown key 'clok'" in message
    assert "did you mean 'clock'" in message


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_figures_that_overflow(tmp_path: Path, option: tuple[str, ...]) -> None:
    """Infinity is no bandwidth, and no JSON."""
    path = tmp_path / "mine.toml"
    path.write_text(DEVICE_FILE.replace('"0.769 ns"', '"1e-300 ns"'))
    assert "overflows" in refusal("attention", *SHAPE, "--device", path, *option)


def test_element_types_are_those_of_the_kv_cache() -> None:
    """The option must take just what a model's ``precision.kv`` takes."""
    for element in ElementType:
        try:
            Precision(kv=element)
        except ValueError:
            with pytest.raises(UnknownNameError):
                options.kv_element(element)
        else:
            assert options.kv_element(element) is element


def test_help_names_all_choices() -> None:
    """Choices are text in the help, and must not be left behind."""
    text = answer("attention", "--help")
    assert "|".join(Placement) in text
    words = " ".join(text.replace("│", " ").split())
    for schedule in Schedule:
        assert f"{schedule} (" in words
    assert "|".join(element for element in ElementType if element != "int4") in text
