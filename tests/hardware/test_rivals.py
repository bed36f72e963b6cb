"""Devices of other makers: their check numbers, which the presets have to hit before anything else.

All figures are of reference/fair-comparison.md, section 3, or worked from them by hand.
"""

from math import isclose
from pathlib import Path

import pytest

from attacc.errors import DocumentError
from attacc.hardware.dram import DRAMS, ActivateWindow, DramDevice, load_device
from attacc.hardware.placement import Placement
from attacc.hardware.system import load_system

PLACED = {
    "hbm-pim-2.4": Placement.BANKGROUP,
    "gddr6-aim-16": Placement.BANK,
    "hbm3-5.2-logic-die": Placement.BANKGROUP,
    "neupims-2.0": Placement.BANK,
}


def gb_per_s(name: str) -> float:
    return DRAMS.load(name).internal_bytes_per_s(PLACED[name], power_limited=True) / 1e9


def tflops(name: str, queries: int = 1) -> float:
    """Of the units that one command keeps busy, two operations a product."""
    device = DRAMS.load(name)
    assert device.pipeline is not None
    units = device.organization.channels * device.banks_per_command(PLACED[name])
    elements = device.organization.access_bytes // 2
    cycles = device.pipeline.unit_cycles(device.organization.access_bytes, 16, queries)
    per_s = device.pipeline.unit_clock_hz / cycles
    return units * elements * queries * 2 * per_s / 1e12


def test_hbm_pim() -> None:
    """Catches a unit too many, a slower column, or another clock.

    16 pseudo-channels x 8 units x 32 B x 300 MHz; x 16 products, two operations each.
    """
    device = DRAMS.load("hbm-pim-2.4")
    assert isclose(gb_per_s("hbm-pim-2.4"), 1229, rel_tol=1e-3)
    assert isclose(tflops("hbm-pim-2.4"), 1.229, rel_tol=1e-3)
    assert isclose(device.external_bytes_per_s, 307e9, rel_tol=1e-3)
    # A unit reads one of its two banks at a time: 8 of 16 in each pseudo-channel, every tCCDL.
    assert device.banks_per_command(Placement.BANKGROUP) == 2 * 8
    parameters = device.parameters(power_limited=True)
    assert parameters["nCCDSB"] == device.timing["nCCDL"] == 4
    # Both halves one after the other are as fast as all banks at half the rate.
    every = device.internal_bytes_per_s(Placement.BANK, power_limited=True)
    assert isclose(every / 1e9, gb_per_s("hbm-pim-2.4"))
    for name, ns in (("nRCDRD", 14), ("nRP", 14), ("nRAS", 33), ("nRC", 47), ("nFAW", 16)):
        assert 0 <= device.timing[name] * device.clock_ns - ns < device.clock_ns, name


def test_gddr6_aim() -> None:
    """Catches a multiply that does not come every nanosecond, or opens as fast as a read.

    16 x 32 B x 1 GHz = 512 GB/s a channel; two channels a die; 1.02 TFLOPS a die.
    """
    device = DRAMS.load("gddr6-aim-16")
    assert gb_per_s("gddr6-aim-16") == pytest.approx(2 * 512)
    assert tflops("gddr6-aim-16") == pytest.approx(1.024)
    assert device.external_bytes_per_s == pytest.approx(2 * 32e9)
    parameters = device.parameters(power_limited=True)
    assert (parameters["nRCDMAC"], parameters["nRCDRD"]) == (56, 36)
    assert device.timing["nRC"] * device.clock_ns == 44.5
    assert (parameters["nFAWAB"], device.timing["nRAS"], device.timing["nRP"]) == (0, 54, 32)
    # 32 cards of 16 dies, as CENT has them: 524 TB/s.
    assert 32 * 16 * gb_per_s("gddr6-aim-16") / 1e3 == pytest.approx(524, rel=1e-3)


def test_units_on_the_logic_die() -> None:
    """Catches a path that is not four times the interface, or products that do not keep up.

    4 x 666 GB/s; 32 x 512 x 2 x 0.65 GHz = 21.3 TFLOPS, which is 8 operations a byte.
    """
    device = DRAMS.load("hbm3-5.2-logic-die")
    assert isclose(gb_per_s("hbm3-5.2-logic-die"), 4 * device.external_bytes_per_s / 1e9)
    assert isclose(gb_per_s("hbm3-5.2-logic-die"), 2680, rel_tol=0.01)
    assert isclose(tflops("hbm3-5.2-logic-die", queries=8), 21.3, rel_tol=1e-3)
    operations = tflops("hbm3-5.2-logic-die", queries=8) * 1e3 / gb_per_s("hbm3-5.2-logic-die")
    assert isclose(operations, 8, rel_tol=1e-3)
    # Eight queries fit into the time of a column, a ninth does not.
    for queries, cycles in ((1, 4), (8, 4), (9, 6)):
        found = device.parameters(power_limited=True, queries_per_read=queries)["nCCDSB"]
        assert found == cycles, queries


def test_neupims() -> None:
    """Catches rows that open at once: 30 ns x (8 groups / 2 ranks - 1) + tRCD until a multiply."""
    device = DRAMS.load("neupims-2.0")
    o = device.organization
    assert (o.channels, o.banks_per_channel, device.clock_ns) == (32, 32, 1.0)
    assert o.stack_bytes == 32 * 2**30
    parameters = device.parameters(power_limited=True)
    opened = parameters["nFAWAB"] - parameters["nFAW"] + parameters["nRCDMAC"]
    assert opened == 30 * (8 // 2 - 1) + parameters["nRCDRD"]


def of_window(name: str, window: ActivateWindow) -> dict[str, int]:
    return load_device(name, four_activate_window=window.value).parameters(power_limited=True)


def test_windows_of_four_activates() -> None:
    """Catches a window of too few or too many banks.

    A pseudo-channel of HBM3 has 32 banks in two ranks: 8 windows of nFAW = 39 for ACTAB, or 4 for
    each rank. ACTSB opens the same bank of 4 groups in each rank.
    """
    for window, cycles in (
        (ActivateWindow.NONE, (0, 0)),
        (ActivateWindow.RANK, (4 * 39, 39)),
        (ActivateWindow.PSEUDO_CHANNEL, (8 * 39, 2 * 39)),
    ):
        found = of_window("hbm3-5.2", window)
        assert (found["nFAWAB"], found["nFAWSB"]) == cycles
    # ACT4 of GDDR6-AiM: four commands for 16 banks.
    assert of_window("gddr6-aim-16", ActivateWindow.RANK)["nFAWAB"] == 4 * 34


@pytest.mark.parametrize(
    ("base", "line", "message"),
    [
        ("hbm3-5.2", "timing.nFAWAB = 1", "nFAWAB is derived from nFAW and four_activate_window"),
        ("hbm3-5.2-asplos24", 'four_activate_window = "rank"', "have no such window: choose none"),
        ("hbm3-5.2", 'four_activate_window = "bank"', "four_activate_window"),
    ],
)
def test_a_window_that_no_rule_knows_is_refused(
    tmp_path: Path, base: str, line: str, message: str
) -> None:
    """Catches a switch without an effect."""
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "mine"\nbase = "{base}"\n{line}\n')
    with pytest.raises(DocumentError, match=message):
        load_device(path)


def test_a_multiply_may_open_later_than_a_read() -> None:
    """Catches nRCDMAC that is lost, or that reads wait for."""
    plain = DRAMS.load("hbm3-5.2")
    assert plain.parameters(power_limited=True)["nRCDMAC"] == plain.timing["nRCDRD"]
    slower = load_device("hbm3-5.2", **{"timing.nRCDMAC": 30})
    found = slower.parameters(power_limited=True)
    assert (found["nRCDMAC"], found["nRCDRD"]) == (30, 19)


@pytest.mark.parametrize("name", PLACED)
def test_every_number_of_a_rival_has_a_source(name: str) -> None:
    """Catches a figure of another maker's memory that is taken for AttAcc's."""
    device = DRAMS.load(name)
    assert {"organization", "pipeline.unit_clock", "pipeline.buffer_words"} <= device.sources.keys()
    for field in ("power_limited", "four_activate_window", "pipeline.products_8_bits"):
        assert "AttAcc" not in device.sources[field], field


SYSTEMS_OF = {
    # Devices, stacks, internal TB/s of all, GiB.
    "8xh100-hbm-pim": ("hbm-pim-2.4", 40, 49.2, 80),
    "8xh100-aim": ("gddr6-aim-16", 256, 262.1, 256),
    "8xh100-logic-die": ("hbm3-5.2-logic-die", 40, 106.5, 640),
    "8xh100-neupims": ("neupims-2.0", 8, 65.5, 256),
}


@pytest.mark.parametrize("name", SYSTEMS_OF)
def test_a_rival_stands_beside_the_same_gpus(name: str) -> None:
    """Catches a rival with more memory, more bandwidth or other GPUs than its page says."""
    system, plain = load_system(name), load_system("8xh100")
    dram, stacks, tb_per_s, gib = SYSTEMS_OF[name]
    assert (system.gpu, system.gpus, system.link) == (plain.gpu, plain.gpus, plain.link)
    assert system.attacc is not None
    table = system.attacc.table
    device: DramDevice = DRAMS.load(table.dram)
    assert (device.name, table.devices, system.attacc.stacks) == (dram, 8, stacks)
    assert table.placement is PLACED[dram]
    of_all = stacks * device.internal_bytes_per_s(table.placement, power_limited=True)
    assert isclose(of_all / 1e12, tb_per_s, rel_tol=2e-3)
    assert stacks * device.organization.stack_bytes == gib * 2**30
    sources = system.spec.sources
    assert "fair-comparison.md" in sources["attacc.dram"]
    assert "AttAcc, ASPLOS" not in sources["attacc.placement"]
