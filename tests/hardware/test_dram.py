import copy
import tomllib
from importlib.resources import files
from math import ceil, inf, isclose, nan
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacc.documents import Presets, PresetSpec, load_document, parse_document
from attacc.errors import DocumentError, InputError, UnknownNameError
from attacc.hardware.dram import (
    DRAMS,
    MAX_CYCLES,
    RULE_SETS,
    DramDevice,
    Organization,
    Pipeline,
    Refresh,
    RefreshMode,
    RuleSet,
    Scope,
    evaluate_cycles,
    parameters_of,
)
from attacc.hardware.placement import Placement

DEVICE = (files("attacc.hardware") / "presets/dram/hbm3-5.2-asplos24.toml").read_text()
COMPLETE = (files("attacc.hardware") / "presets/dram/hbm3-5.2.toml").read_text()
RULES = (files("attacc.hardware") / "presets/rules/attacc-pim.toml").read_text()
COMPLETE_RULES = (files("attacc.hardware") / "presets/rules/hbm-pim.toml").read_text()
PARAMETERS = {"nRC": 63, "nRCD": 19, "nBL": 2}


@pytest.mark.parametrize(
    ("expression", "cycles"),
    [
        ("7", 7),
        ("nRC", 63),
        ("nRCD + nBL", 21),
        ("nRC - nRCD - nBL", 42),
        ("2 * nBL + 1", 5),
        ("(nRCD + 1) * nBL", 40),
        ("max(nRCD, nRC - 1, 3)", 62),
        ("nBL - 2", 0),
        (str(MAX_CYCLES), MAX_CYCLES),
    ],
)
def test_latency_expressions(expression: str, cycles: int) -> None:
    """Catches a wrong operator, precedence, or bound."""
    assert evaluate_cycles(expression, PARAMETERS) == cycles


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "nRC +",
        "nRC / 2",
        "nRC ** 2",
        "-nRC",
        "1.5",
        "'nRC'",
        "min(nRC, 2)",
        "max()",
        "max(nRC, key=nBL)",
        "max(*nRC)",
        "nRC.real",
        "nRC if nBL else 1",
        "__import__('os')",
        "nRC\0",
        "(" * 300 + "1" + ")" * 300,
        "1" * 5000,
        "+".join(["1"] * 20_000),
    ],
)
def test_what_is_no_latency_expression_is_refused(expression: str) -> None:
    """Catches code that would be run, and expressions that end in another exception."""
    with pytest.raises(InputError, match="is no expression of parameters"):
        evaluate_cycles(expression, PARAMETERS)


@pytest.mark.parametrize("expression", ["nBL - 3", f"{MAX_CYCLES} + 1", f"{MAX_CYCLES} * 9999"])
def test_latencies_out_of_range_are_refused(expression: str) -> None:
    """Catches a negative latency, and one that overflows the kernel's integers."""
    with pytest.raises(InputError, match=f"not 0 to {MAX_CYCLES}"):
        evaluate_cycles(expression, PARAMETERS)


def test_a_misspelt_parameter_proposes_the_nearest() -> None:
    """Catches an unknown parameter that counts as 0, or a message without a way out."""
    with pytest.raises(UnknownNameError, match=r"nRDC.*did you mean 'nRC'"):
        evaluate_cycles("nRDC + 1", PARAMETERS)


def test_the_parameters_of_an_expression() -> None:
    """Catches a parameter that is used, yet reported as used by no rule."""
    assert parameters_of("max(nRC, 2 * nBL) + 1 - nRCD") == {"nRC", "nBL", "nRCD"}


@pytest.mark.parametrize(
    ("scope", "fields"),
    [
        (Scope.CHANNEL, "    "),
        (Scope.PSEUDO_CHANNEL, "p   "),
        (Scope.RANK, "pr  "),
        (Scope.BANK_GROUP, "prg "),
        (Scope.BANK, "prgb"),
        (Scope.BANK_INDEX, "   b"),
        (Scope.BANK_PAIR, " rgb"),
        (Scope.BANK_GROUP_PAIR, " rg "),
        (Scope.RANK_PAIR, " r  "),
    ],
)
def test_fields_of_every_scope(scope: Scope, fields: str) -> None:
    """Catches two commands that meet at the wrong scope."""
    assert scope.fields == tuple(field != " " for field in fields)


STANDARDS = {
    # Pins of a stack or device, pin rate in Gb/s, capacity in GiB.
    "hbm2-2.0": (1024, 2.0, 4),
    "hbm2e-3.2": (1024, 3.2, 16),
    "hbm3-4.8": (1024, 4.8, 16),
    "hbm3-5.2": (1024, 5.2, 16),
    "hbm3-5.6": (1024, 5.6, 16),
    "hbm3-6.0": (1024, 6.0, 16),
    "hbm3-6.4": (1024, 6.4, 16),
    "hbm3-6.4-ramulator": (1024, 6.4, 16),
    "hbm3e-9.2": (1024, 9.2, 16),
    "hbm4-8.0": (2048, 8.0, 32),
    "hbm4-16.0": (2048, 16.0, 32),
    "gddr6-aim-14": (32, 14.0, 1),
    "lpddr5x-8533": (64, 8.533, 8),
}
RIVALS = {
    # The same of other memories that compute, whose units are not AttAcc's.
    "hbm-pim-2.4": (1024, 2.4, 2),
    "gddr6-aim-16": (32, 16.0, 1),
    "hbm3-5.2-logic-die": (1024, 5.2, 16),
    "neupims-2.0": (2048, 2.0, 32),
}


@pytest.mark.parametrize("name", DRAMS.names())
def test_every_device_loads_and_names_its_sources(name: str) -> None:
    """Catches a device that is malformed, misnamed or without sources, or whose interface is not
    as wide and as fast as its standard's.

    0.3 % because clocks are published in three digits (0.570 ns is not 4 / 7 ns).
    """
    device = DRAMS.load(name)
    assert device.name == name
    assert device.description
    assert {"default", "power_limited"} <= device.sources.keys()
    pins, rate, gib = (STANDARDS | RIVALS)[name.removesuffix("-asplos24")]
    assert device.pin_rate_bits_per_s == rate * 1e9
    assert isclose(device.external_bytes_per_s, pins * rate * 1e9 / 8, rel_tol=3e-3)
    assert isclose(device.pins, pins, rel_tol=3e-3)
    assert device.organization.stack_bytes == gib * 2**30


@pytest.mark.parametrize("name", STANDARDS)
def test_cadences_leave_columns_their_time(name: str) -> None:
    """Catches a multiply faster than its banks' column access, its unit, or with less power than
    without a limit.
    """
    device = DRAMS.load(name)
    free, limited = (device.parameters(power_limited=p) for p in (False, True))
    for cadence in ("nCCDAB", "nCCDSB"):
        assert device.timing["nCCDL"] <= free[cadence] <= limited[cadence]
    # A unit per pseudo-channel keeps up with its bursts.
    assert limited["nCCDPB"] == device.timing["nBL"]
    internal = [device.internal_bytes_per_s(p, power_limited=True) for p in Placement]
    assert internal[2] == device.external_bytes_per_s < internal[0]


@pytest.mark.parametrize("rate", ["4.8", "5.2", "5.6", "6.0", "6.4"])
def test_attaccs_grades_agree_with_those_of_its_controller(rate: str) -> None:
    """Catches a grade whose two presets, with and without a pipeline, tell different things."""
    complete, reference = (DRAMS.load(f"hbm3-{rate}{suffix}") for suffix in ("", "-asplos24"))
    assert complete.organization == reference.organization
    assert complete.clock_ns == reference.clock_ns
    assert (complete.power_limited, complete.unlimited) == (
        reference.power_limited,
        reference.unlimited,
    )
    other_names = {"nRCDRD": "nRCD", "nRCDWR": "nRCD"}
    shared = {other_names.get(name, name): cycles for name, cycles in complete.timing.items()}
    assert reference.timing.items() <= shared.items()


IN_CYCLES = {"nBL", "nACT", "nPPD", "nCCDS", "nCCDL"}
BY_DENSITY = {"nREFI", "nRFC", "nRFCpb", "nRREFD"}


@pytest.mark.parametrize(
    ("name", "base", "clock_ns", "refresh_ns"),
    [
        ("hbm3e-9.2", "hbm3-6.4-ramulator", 4 / 9.2, (3900, 350, 200, 8)),
        ("hbm2e-3.2", "hbm2-2.0", 0.625, (3900, 450, 200, 8)),
    ],
)
def test_devices_derived_in_nanoseconds(
    name: str, base: str, clock_ns: float, refresh_ns: tuple[int, int, int, int]
) -> None:
    """Catches a figure that is not its base's in nanoseconds, rounded up."""
    device, original = DRAMS.load(name), DRAMS.load(base)
    assert isclose(device.clock_ns, clock_ns, rel_tol=1e-3)
    for parameter, cycles in original.timing.items():
        if parameter in IN_CYCLES:
            assert device.timing[parameter] == cycles
        elif parameter not in BY_DENSITY:
            ns = cycles * original.clock_ns
            assert device.timing[parameter] == ceil(round(ns / clock_ns, 6)), parameter
    interval, *others = refresh_ns
    assert device.timing["nREFI"] == int(interval / clock_ns)
    for parameter, ns in zip(("nRFC", "nRFCpb", "nRREFD"), others, strict=True):
        assert device.timing[parameter] == ceil(round(ns / clock_ns, 6)), parameter


def test_lpddr5x_is_lpddr5_in_nanoseconds() -> None:
    """Catches a figure that is not the one of LPDDR5-6400 (1.25 ns) in nanoseconds, rounded up."""
    lpddr5_6400 = {
        "nCL": 17, "nCWL": 9, "nRCDRD": 15, "nRCDWR": 15, "nRP": 17, "nRAS": 34, "nRC": 49,
        "nRTPL": 8, "nWR": 28, "nWTRS": 5, "nWTRL": 10, "nRRDS": 4, "nRRDL": 4, "nFAW": 16,
    }  # fmt: skip
    timing = DRAMS.load("lpddr5x-8533").timing
    for name, cycles in lpddr5_6400.items():
        assert timing[name] == ceil(cycles * 4 / 3), name
    for name, ns in (("nRFC", 280), ("nRFCpb", 140), ("nRREFD", 90)):
        assert timing[name] == ceil(ns / 0.9375), name
    assert timing["nREFI"] == 3900 / 0.9375


@pytest.mark.parametrize("name", STANDARDS)
def test_pipelines_are_built_from_their_latencies(name: str) -> None:
    """Catches a latency left over from another device."""
    device = DRAMS.load(name)
    timing, pipeline = device.timing, device.pipeline
    assert pipeline is not None
    assert pipeline.write_to_multiply == timing["nCWL"] + timing["nBL"] + 1
    unit_cycles = 6 * 1e9 / pipeline.unit_clock_hz / device.clock_ns
    assert pipeline.multiply_to_move == timing["nCL"] + ceil(unit_cycles)
    assert pipeline.move_to_softmax == timing["nCL"] + timing["nBL"]
    assert pipeline.softmax_lanes == 16 * device.organization.channels
    assert pipeline.softmax_buffer_bytes == 2**15 * device.organization.channels


def test_a_query_more_per_read_takes_the_unit_longer() -> None:
    """Catches a cadence that a 666 MHz unit (1.95 cycles of 0.769 ns) cannot keep, or one that it
    could.
    """
    device = DRAMS.load("hbm3-5.2")
    for queries, cycles in ((1, (6, 6, 2)), (3, (6, 6, 6)), (4, (8, 8, 8)), (16, (32, 32, 32))):
        limited = device.parameters(power_limited=True, queries_per_read=queries)
        assert tuple(limited[f"nCCD{unit}"] for unit in ("AB", "SB", "PB")) == cycles
    free = device.parameters(power_limited=False, queries_per_read=2)
    assert (free["nCCDAB"], free["nCCDPB"]) == (4, 4)


@pytest.mark.parametrize("name", STANDARDS)
def test_presets_state_what_units_form_of_narrow_elements(name: str) -> None:
    """Catches a preset whose accesses of narrow elements take longer than those of 16 bits."""
    pipeline = DRAMS.load(name).pipeline
    assert pipeline is not None
    products = pipeline.products_16_bits, pipeline.products_8_bits, pipeline.products_4_bits
    assert products == (16, 32, 64)


def test_narrow_elements_take_the_products_that_the_unit_forms() -> None:
    """Catches 8-bit elements that double the products of a unit for free.

    An access holds 16, 32 or 64 elements; a unit of 666 MHz takes 1.95 cycles of 0.769 ns for 16.
    """
    device = DRAMS.load("hbm3-5.2")
    assert device.pipeline is not None
    named = ("products_16_bits", "products_8_bits", "products_4_bits")
    defaults = {name: Pipeline.model_fields[name].default for name in named}
    assert set(defaults.values()) == {16}
    plain = device.pipeline.model_copy(update=defaults)
    narrow = device.model_copy(update={"pipeline": plain})
    for bits, queries, cycles in (
        (16, 1, (6, 6, 2)), (8, 1, (6, 6, 4)), (8, 2, (8, 8, 8)), (4, 1, (8, 8, 8)),
    ):  # fmt: skip
        found = narrow.parameters(power_limited=True, queries_per_read=queries, element_bits=bits)
        assert tuple(found[f"nCCD{unit}"] for unit in ("AB", "SB", "PB")) == cycles
        same = device.parameters(power_limited=True, queries_per_read=queries, element_bits=bits)
        assert same == device.parameters(power_limited=True, queries_per_read=queries)
    with pytest.raises(InputError, match="element_bits = 6 is not one of 16, 8 and 4"):
        device.parameters(power_limited=True, element_bits=6)
    halved = narrow.internal_bytes_per_s(Placement.BUFFER, power_limited=True, element_bits=8)
    assert 2 * halved == narrow.internal_bytes_per_s(Placement.BUFFER, power_limited=True)


def test_a_unit_at_the_command_clock_takes_one_cycle() -> None:
    """Catches a quotient a rounding error above a whole number of cycles that is rounded up."""
    device = DRAMS.load("hbm3-5.2")
    assert device.pipeline is not None
    for clock_ns in (0.3, 0.7, 0.769, 1.1):
        pipeline = device.pipeline.model_copy(update={"unit_clock_hz": 1e9 / clock_ns})
        same = device.model_copy(update={"clock_ns": clock_ns, "pipeline": pipeline})
        for queries in (3, 7, 100):
            cadence = same.parameters(power_limited=True, queries_per_read=queries)["nCCDPB"]
            assert cadence == queries


def test_queries_per_read_need_a_unit_of_known_speed() -> None:
    """Catches a cadence made up where no clock of the units is known."""
    device = DRAMS.load("hbm3-5.2-asplos24")
    with pytest.raises(InputError, match=r"queries_per_read = 2, but how long .*\[pipeline\]"):
        device.parameters(power_limited=True, queries_per_read=2)
    with pytest.raises(InputError, match="queries_per_read = 0 is not 1 or more"):
        device.parameters(power_limited=True, queries_per_read=0)


def test_a_hot_device_refreshes_more_often() -> None:
    """Catches a rate that forgets the temperature, or rises below it."""
    device = DRAMS.load("hbm3-5.2")
    for temperature, cycles in ((None, 5070), (-40.0, 5070), (85.0, 5070), (85.5, 2535)):
        parameters = device.parameters(power_limited=True, temperature_c=temperature)
        assert parameters["nREFI"] == cycles
    refresh = Refresh(hot_above_c=60, hot_rate=1.5)
    other = device.model_copy(update={"refresh": refresh})
    assert other.parameters(power_limited=True, temperature_c=70)["nREFI"] == 3380
    hottest = device.model_copy(update={"refresh": Refresh(hot_rate=6)})
    with pytest.raises(InputError, match=r"at 90 degrees .* takes 912 cycles of every nREFI = 845"):
        hottest.parameters(power_limited=True, temperature_c=90)
    for temperature in (nan, inf, -inf):
        with pytest.raises(InputError, match="is no temperature"):
            device.parameters(power_limited=True, temperature_c=temperature)


def test_a_hot_device_that_refreshes_bank_by_bank() -> None:
    """Catches banks that fall due faster than they can be refreshed."""
    device = DRAMS.load("hbm3-5.2")
    refresh = Refresh(mode=RefreshMode.PER_BANK, hot_rate=20)
    hot = device.model_copy(update={"refresh": refresh})
    with pytest.raises(
        InputError, match=r"one of 32 banks is due every 7 cycles .* least 11 apart"
    ):
        hot.parameters(power_limited=True, temperature_c=90)


def test_the_reference_device() -> None:
    """Catches a changed figure of the device that the golden traces were run on."""
    device = DRAMS.load("hbm3-5.2-asplos24")
    limited = device.parameters(power_limited=True)
    assert limited == {
        "nBL": 2, "nACT": 2, "nRCD": 19, "nRP": 19, "nRAS": 45, "nRC": 63, "nRTPL": 8, "nCCDS": 2,
        "nCCDL": 4, "nREFI": 5070, "nRFC": 456, "nCCDAB": 6, "nCCDSB": 6, "nCCDPB": 2,
    }  # fmt: skip
    assert device.parameters(power_limited=False) == limited | {"nCCDAB": 4, "nCCDSB": 4}
    assert device.organization.banks_per_channel == 64
    assert device.organization.stack_bytes == 16 * 2**30


@pytest.mark.parametrize(
    ("name", "bank", "bankgroup", "unlimited"),
    [("4.8", 6, 6, 4), ("5.2", 6, 6, 4), ("5.6", 6, 7, 4), ("6.0", 6, 7, 4), ("6.4", 7, 8, 4)],
)
def test_cadence_of_every_speed(name: str, bank: int, bankgroup: int, unlimited: int) -> None:
    """Catches a cadence that is not the one of reference/controller.md."""
    device = DRAMS.load(f"hbm3-{name}-asplos24")
    assert (device.power_limited.nCCDAB, device.power_limited.nCCDSB) == (bank, bankgroup)
    assert (device.unlimited.nCCDAB, device.unlimited.nCCDSB) == (unlimited, unlimited)


def test_bandwidths_by_hand() -> None:
    """Catches a factor: 16 channels x 2 x 32 B in 2 cycles, and 64, 16 or 2 banks per multiply."""
    device = DRAMS.load("hbm3-5.2-asplos24")
    external = 16 * 2 * 32 / (2 * 0.769e-9)
    assert isclose(device.external_bytes_per_s, external)
    for placement, banks, cycles in [
        (Placement.BANK, 64, (6, 4)),
        (Placement.BANKGROUP, 16, (6, 4)),
        (Placement.BUFFER, 2, (2, 2)),
    ]:
        assert device.banks_per_command(placement) == banks
        for limited, cadence in zip((True, False), cycles, strict=True):
            internal = device.internal_bytes_per_s(placement, power_limited=limited)
            assert isclose(internal, 16 * banks * 32 / (cadence * 0.769e-9))
    assert device.internal_bytes_per_s(Placement.BUFFER, power_limited=True) == external


def test_banks_per_command_follow_the_organisation() -> None:
    """Catches a device with twice the bank groups that still reads 64 banks at once."""
    document = DEVICE.replace("bank_groups = 4", "bank_groups = 8")
    device = parse_document(DramDevice, tomllib.loads(document), where="mine.toml")
    assert [device.banks_per_command(placement) for placement in Placement] == [128, 32, 2]


def load(tmp_path: Path, text: str) -> DramDevice:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return load_document(DramDevice, path)


@pytest.mark.parametrize(
    ("line", "replacement", "message"),
    [
        ("nRCD = 19", "", r"unknown timing parameter 'nRCD'"),
        ("nRCD = 19", "nRDC = 19", r"unknown timing parameter 'nRCD'"),
        (
            "nRFC = 456",
            "nRFC = 456\nnRfc = 9",
            r"nRfc is a parameter of no rule.*mean 'nRFC'",
        ),
        ("nRCD = 19", "nRCD = 19\nnCCDAB = 3", r"timing\.nCCDAB belongs into power_limited"),
        ("nRCD = 19", "nRCD = -1", r"timing\.nRCD: -1 is out of range .*at most 10000000"),
        ("nRCD = 19", "nRCD = 1.5", r"timing\.nRCD: .*no whole number"),
        ("nRCD = 19", 'nRCD = "19"', r"timing\.nRCD: .*no whole number"),
        (
            "nRCD = 19",
            f"nRCD = {MAX_CYCLES + 1}",
            r"timing\.nRCD: 10000001 is out of range",
        ),
        ("nBL = 2", "nBL = 0", r"timing\.nBL is missing or 0"),
        ("nREFI = 5070", "", r"timing\.nREFI is missing or 0"),
        ("nREFI = 5070", "nREFI = 912", r"takes 912 cycles of every nREFI = 912: nothing else"),
        ("nRFC = 456", "nRFC = 2535", r"takes 5070 cycles of every nREFI = 5070"),
        ("channels = 16", "channels = 12", r"organization: channels = 12 is not a power of two"),
        ("rows = 16384", "rows = 0", r"organization\.rows: 0 is out of range"),
        ("rows = 16384", "rows = -4", r"organization\.rows: -4 is out of range"),
        ("ranks = 2", "rank = 2", r"organization\.rank: unknown key 'rank'.*did you mean 'ranks'"),
        ("ranks = 2", "", r"organization\.ranks: missing key 'ranks'"),
        ("access_bytes = 32", "access_bytes = 1", r"access_bytes: 1 is out of range"),
        ('rules = "attacc-pim"', 'rules = "attac"', r"unknown rule set preset 'attac'.*attacc-pim"),
        ('clock = "0.769 ns"', "clock = 0.769", r"clock: nanoseconds must be text with a unit"),
        ('clock = "0.769 ns"', 'clock = "0.769 GHz"', r"clock: unknown unit 'GHz'"),
        ('clock = "0.769 ns"', 'clock = "0 ns"', r"clock: .*must be a positive number"),
        ("nCCDAB = 6", "nCCDAB = 0", r"power_limited\.nCCDAB: 0 is out of range"),
        ("[unlimited]", "[unlimitd]", r"unknown key 'unlimitd'.*did you mean 'unlimited'"),
    ],
)
def test_a_fault_of_a_device_names_file_and_field(
    tmp_path: Path, line: str, replacement: str, message: str
) -> None:
    """Catches a fault that passes, or a message that does not say where it is."""
    assert line in DEVICE
    with pytest.raises(DocumentError, match=message) as caught:
        load(tmp_path, DEVICE.replace(line, replacement, 1))
    assert "mine.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "replacement", "message"),
    [
        ('mode = "all_bank"', 'mode = "per_row"', r"refresh\.mode: 'per_row' is unknown"),
        ("hot_rate = 2", "hot_rate = 0.5", r"refresh\.hot_rate: 0.5 is out of range"),
        ("hot_rate = 2", "hot_rate = nan", r"refresh\.hot_rate: .*finite"),
        ("hot_above_c = 85", 'hot_above_c = "85 C"', r"refresh\.hot_above_c: .*number"),
        ("hot_above_c = 85", "hot_above = 85", r"refresh\.hot_above: unknown key"),
        ("nRCDWR = 19", "", r"unknown timing parameter 'nRCDWR'"),
        ("\nnBL = 2", "\nnBL = 2\nnCCDPB = 2", r"timing\.nCCDPB is derived from nBL and pipeline"),
        ("nRTW = 3", "nRTW = 3\nnRCD = 19", r"nRCD is a parameter of no rule.*'nRCDWR'"),
        ('unit_clock = "666 MHz"', "", r"pipeline\.unit_clock: missing key"),
        ('unit_clock = "666 MHz"', 'unit_clock = "0 MHz"', r"unit_clock: .*positive"),
        ("nREFI = 5070\nnRFC = 456", "nREFI = 5070\nnRFC = 3000", r"takes 6000 cycles of every"),
    ],
)
def test_a_fault_of_a_device_with_all_rules_is_named(
    tmp_path: Path, line: str, replacement: str, message: str
) -> None:
    """Catches a fault that passes, or a message that does not say where it is."""
    assert line in COMPLETE
    with pytest.raises(DocumentError, match=message):
        load(tmp_path, COMPLETE.replace(line, replacement, 1))


def test_refresh_bank_by_bank_needs_a_command_and_time(tmp_path: Path) -> None:
    """Catches a mode that the rules cannot serve; one refresh of a bank may end as the next is
    due, and all-bank refreshes may take what they like.
    """
    per_bank = '[refresh]\nmode = "per_bank"\n'
    with pytest.raises(
        DocumentError, match=r"'attacc-pim' have no refresh of one bank: choose all"
    ):
        load(tmp_path, DEVICE + per_bank)
    text = COMPLETE.replace('mode = "all_bank"', 'mode = "per_bank"')
    assert load(tmp_path, text).refresh.mode is RefreshMode.PER_BANK
    assert load(tmp_path, text.replace("nRFC = 456", "nRFC = 9999")).timing["nRFC"] == 9999
    slow = text.replace("nRREFD = 11", "nRREFD = 158")
    assert load(tmp_path, slow).timing["nRREFD"] == 158
    with pytest.raises(DocumentError, match=r"due every 158 cycles .* lie at least 159 apart"):
        load(tmp_path, text.replace("nRREFD = 11", "nRREFD = 159"))
    with pytest.raises(DocumentError, match=r"due every 2 cycles .* lie at least 3 apart"):
        load(tmp_path, text.replace("nRREFD = 11", "nRREFD = 0").replace("5070", "95"))


def test_a_device_whose_refresh_just_ends_is_accepted(tmp_path: Path) -> None:
    """Catches a bound that is one too strict."""
    assert load(tmp_path, DEVICE.replace("nREFI = 5070", "nREFI = 913")).timing["nREFI"] == 913


def test_a_stack_beyond_every_address_is_refused() -> None:
    """Catches sizes that are each allowed and overflow an address together."""
    with pytest.raises(ValueError, match="is larger than"):
        Organization(
            channels=1024, pseudo_channels=16, ranks=16, bank_groups=16, banks=16, rows=2**24,
            columns=2**16, access_bytes=1024,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "replacement", "message"),
    [
        (
            'multiply = "MACAB"',
            'multiply = "MACA"',
            r"unknown command 'MACA': did.*'MACAB'",
        ),
        ('refresh = "REFab"', 'refresh = "REF"', r"unknown command 'REF'"),
        ('before = ["MACPB"]', 'before = ["MACPC"]', r"unknown command 'MACPC'"),
        ('after = ["MACPB"]', "after = []", r"rules\.\d+\.after: .* too short"),
        (
            'scope = "bank_pair"',
            'scope = "bank_trio"',
            r"scope: 'bank_trio' is unknown .*bank_pair",
        ),
        ('latency = "nRP"', "latency = 19", r"latency: 19 is no text"),
        ('latency = "nRP"', "", r"latency: missing key 'latency'"),
    ],
)
def test_a_fault_of_a_rule_set_is_named(line: str, replacement: str, message: str) -> None:
    """Catches rules that never apply because they name what does not exist."""
    assert line in RULES
    with pytest.raises(DocumentError, match=message):
        parse_document(RuleSet, tomllib.loads(RULES.replace(line, replacement, 1)), where="mine")


@pytest.mark.parametrize(
    ("line", "replacement", "message"),
    [
        ('read = "RD"', 'read = "RDA"', r"unknown command 'RDA': did.*'RD'"),
        ('read = "RD"', 'read = "ACT"', r"command 'ACT' belongs into column_commands, by its role"),
        ('read = "RD"', "", r"ordinary\.read: missing key 'read'"),
        ('refresh_bank = "REFsb"', 'refresh_bank = "REFpb"', r"unknown command 'REFpb'"),
        ('refresh_bank = "REFsb"', 'refresh_bank = "SFM"', r"'SFM' belongs into row_commands"),
        ('"SFM", "RD", "WR"]', '"SFM", "RD", "WR", "PRE"]', r"command 'PRE' is on both buses"),
        ("window = 4", "window = 0", r"rules\.\d+\.window: 0 is out of range"),
        ("window = 4", "window = 65", r"rules\.\d+\.window: 65 is out of range"),
        ("window = 4", "windows = 4", r"rules\.\d+\.windows: unknown key"),
        (
            'scope = "rank_pair"',
            'scope = "pair_rank"',
            r"scope: 'pair_rank' is unknown .*rank_pair",
        ),
    ],
)
def test_a_fault_of_the_complete_rule_set_is_named(
    line: str, replacement: str, message: str
) -> None:
    """Catches roles of ordinary traffic, of refresh and of windows that nobody checks."""
    assert line in COMPLETE_RULES
    text = COMPLETE_RULES.replace(line, replacement, 1)
    with pytest.raises(DocumentError, match=message):
        parse_document(RuleSet, tomllib.loads(text), where="mine")


@pytest.mark.parametrize("name", RULE_SETS.names())
def test_every_command_has_rules(name: str) -> None:
    """Catches a command that nothing holds back, or that holds nothing back."""
    rule_set = RULE_SETS.load(name)
    commands = {*rule_set.row_commands, *rule_set.column_commands}
    assert {name for rule in rule_set.rules for name in rule.before} == commands
    assert {name for rule in rule_set.rules for name in rule.after} == commands
    assert set(rule_set.families) == set(Placement)


def test_the_complete_rules_hold_all_that_the_reference_has() -> None:
    """Catches a rule of reference/controller.md that was lost on the way to the complete set: any
    two commands on any two banks wait at least as long.
    """
    reference, complete = RULE_SETS.load("attacc-pim"), RULE_SETS.load("hbm-pim")
    parameters = DRAMS.load("hbm3-5.2").parameters(power_limited=True)

    def waits(rule_set: RuleSet, before: str, after: str) -> dict[Scope, int]:
        found: dict[Scope, int] = {}
        for rule in rule_set.rules:
            if before in rule.before and after in rule.after and rule.window == 1:
                cycles = evaluate_cycles(rule.latency, parameters | {"nRCD": 19})
                found[rule.scope] = max(cycles, found.get(rule.scope, 0))
        return found

    commands = (*reference.row_commands, *reference.column_commands)
    for before in commands:
        for after in commands:
            stricter = waits(complete, before, after)
            for scope, cycles in waits(reference, before, after).items():
                # Where fewer fields must be equal, more commands meet.
                covering = [
                    at_least
                    for other, at_least in stricter.items()
                    if all(
                        mine or not theirs
                        for mine, theirs in zip(scope.fields, other.fields, strict=True)
                    )
                ]
                assert max(covering, default=0) >= cycles, (before, after, scope)


DOCUMENTS = [
    (cast(Presets[PresetSpec], DRAMS), tomllib.loads(COMPLETE)),
    (cast(Presets[PresetSpec], RULE_SETS), tomllib.loads(COMPLETE_RULES)),
    (cast(Presets[PresetSpec], DRAMS), tomllib.loads(DEVICE)),
    (cast(Presets[PresetSpec], RULE_SETS), tomllib.loads(RULES)),
]
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["0 ns", "1e400 ns", "nRC + nRC", "max(", "channel", "MACAB", "attacc-pim"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)


def tables(value: object) -> list[dict[str, object]]:
    """Every table of a document, at any depth."""
    if isinstance(value, dict):
        table = cast(dict[str, object], value)
        return [table, *(inner for v in table.values() for inner in tables(v))]
    if isinstance(value, list):
        return [inner for v in cast(list[object], value) for inner in tables(v)]
    return []


@given(
    case=st.sampled_from(DOCUMENTS),
    action=st.sampled_from(["replace", "remove", "add"]),
    junk=JUNK,
    key=st.text(min_size=1, max_size=8),
    data=st.data(),
)
def test_damage_is_reported_or_harmless(
    case: tuple[Presets[PresetSpec], dict[str, object]],
    action: str,
    junk: object,
    key: str,
    data: st.DataObject,
) -> None:
    """Catches other exceptions than DocumentError, and messages that do not name the document."""
    presets, document = case
    damaged = copy.deepcopy(document)
    table = data.draw(st.sampled_from([t for t in tables(damaged) if t]))
    victim = data.draw(st.sampled_from(sorted(table)))
    if action == "replace":
        table[victim] = junk
    elif action == "remove":
        del table[victim]
    else:
        table[key] = junk
    try:
        parse_document(presets.spec, damaged, where="mine.toml")
    except DocumentError as error:
        assert str(error).startswith("mine.toml: ")  # noqa: PT017 - or nothing is raised
