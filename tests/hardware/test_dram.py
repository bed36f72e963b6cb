import copy
import tomllib
from importlib.resources import files
from math import isclose
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
    RuleSet,
    Scope,
    evaluate_cycles,
    parameters_of,
)
from attacc.hardware.placement import Placement

DEVICE = (files("attacc.hardware") / "presets/dram/hbm3-5.2-asplos24.toml").read_text()
RULES = (files("attacc.hardware") / "presets/rules/attacc-pim.toml").read_text()
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
    ],
)
def test_fields_of_every_scope(scope: Scope, fields: str) -> None:
    """Catches two commands that meet at the wrong scope."""
    assert scope.fields == tuple(field != " " for field in fields)


@pytest.mark.parametrize("name", DRAMS.names())
def test_every_device_loads_and_names_its_sources(name: str) -> None:
    """Catches a device that is malformed, misnamed or without sources, or whose pins are not 1024.

    1 % because the clocks are rounded to 1 ps, and 0.769 ns is not 2 / 2.6 Gb/s.
    """
    device = DRAMS.load(name)
    assert device.name == name
    assert device.description
    assert {"default", "timing", "power_limited"} <= device.sources.keys()
    assert isclose(device.pins, 1024, rel_tol=0.01)


def test_the_reference_device() -> None:
    """Catches a changed figure of the device that the golden traces were run on."""
    device = DRAMS.load("hbm3-5.2-asplos24")
    limited = device.parameters(power_limited=True)
    assert limited == {
        "nBL": 2, "nACT": 2, "nRCD": 19, "nRP": 19, "nRAS": 45, "nRC": 63, "nRTPL": 8, "nCCDS": 2,
        "nCCDL": 4, "nREFI": 5070, "nRFC": 456, "nCCDAB": 6, "nCCDSB": 6,
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
        ("nRCD = 19", "nRCD = -1", r"timing: nRCD = -1 is not a number of cycles"),
        ("nRCD = 19", "nRCD = 1.5", r"timing\.nRCD: .*integer"),
        ("nRCD = 19", 'nRCD = "19"', r"timing\.nRCD: .*integer"),
        ("nRCD = 19", f"nRCD = {MAX_CYCLES + 1}", r"timing: nRCD = .*not a number of cycles"),
        ("nBL = 2", "nBL = 0", r"timing\.nBL is missing or 0"),
        ("nREFI = 5070", "", r"timing\.nREFI is missing or 0"),
        ("nREFI = 5070", "nREFI = 912", r"takes 912 cycles of every nREFI = 912: nothing else"),
        ("nRFC = 456", "nRFC = 2535", r"takes 5070 cycles of every nREFI = 5070"),
        ("channels = 16", "channels = 12", r"organization: channels = 12 is not a power of two"),
        ("rows = 16384", "rows = 0", r"organization\.rows: .*greater than 0, not 0"),
        ("rows = 16384", "rows = -4", r"organization\.rows: .*greater than 0, not -4"),
        ("ranks = 2", "rank = 2", r"organization\.rank: unknown key 'rank'.*did you mean 'ranks'"),
        ("ranks = 2", "", r"organization\.ranks: missing key 'ranks'"),
        ("access_bytes = 32", "access_bytes = 1", r"access_bytes: .*equal to 2, not 1"),
        ('rules = "attacc-pim"', 'rules = "attac"', r"unknown rule set preset 'attac'.*attacc-pim"),
        ('clock = "0.769 ns"', "clock = 0.769", r"clock: nanoseconds must be text with a unit"),
        ('clock = "0.769 ns"', 'clock = "0.769 GHz"', r"clock: unknown unit 'GHz'"),
        ('clock = "0.769 ns"', 'clock = "0 ns"', r"clock: .*must be a positive number"),
        ("nCCDAB = 6", "nCCDAB = 0", r"power_limited\.nCCDAB: .*greater than 0, not 0"),
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
        ('after = ["MACPB"]', "after = []", r"rules\.\d+\.after: .*at least 1 item"),
        ('scope = "bank_pair"', 'scope = "bank_trio"', r"scope: .*'bank_pair'.*not 'bank_trio'"),
        ('latency = "nRP"', "latency = 19", r"latency: .*valid string, not 19"),
        ('latency = "nRP"', "", r"latency: missing key 'latency'"),
    ],
)
def test_a_fault_of_a_rule_set_is_named(line: str, replacement: str, message: str) -> None:
    """Catches rules that never apply because they name what does not exist."""
    assert line in RULES
    with pytest.raises(DocumentError, match=message):
        parse_document(RuleSet, tomllib.loads(RULES.replace(line, replacement, 1)), where="mine")


def test_every_rule_is_about_commands_of_one_bus_each() -> None:
    """Catches a command that is listed on both buses or on none."""
    rule_set = RULE_SETS.load("attacc-pim")
    assert not set(rule_set.row_commands) & set(rule_set.column_commands)
    assert rule_set.precharge_all in rule_set.row_commands
    assert set(rule_set.families) == set(Placement)


DOCUMENTS = [
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
