"""What a step's energy holds inside the boundaries of the boards and of the node."""

from dataclasses import fields

import numpy as np
import pytest

from attacc.errors import EngineError
from attacc.gpu.costs import EnergyBreakdown
from attacc.hardware.dram import DRAMS
from attacc.hardware.system import load_system
from attacc.pim.energy.dram import DRAM_ENERGIES
from attacc.pim.energy.power import Standby, standby
from attacc.system.batches import Batches, Chunk
from attacc.system.boundary import constant_power
from attacc.system.pricer import Pricer
from tests.study.comparisons import PAPERS

NEW = ("standby_pj", "device_pj", "host_pj")


def test_standby_of_a_stack_is_that_of_its_currents() -> None:
    """Catches ranks or refreshes that are counted twice or not, and open rows beside closed ones.

    64 ranks of 40 mA (55 mA with open rows) at 1.2 V, and 32 refreshes of 81.9 nJ in 3.9 us.
    """
    device = DRAMS.load("hbm3-5.2")
    for name in set(DRAM_ENERGIES.names()) - {"gddr6-cent"}:
        found = standby(device, DRAM_ENERGIES.load(name))
        # HBM-PIM has a rank without units beside each rank with them.
        ranks = 2 if name == "hbm-pim-2021" else 1
        closed_w = ranks * (64 * 0.048 + 32 * 81.9e-9 / 3.9e-6)
        assert found.closed_w == pytest.approx(closed_w, rel=1e-3)
        assert found.open_w == pytest.approx(ranks * 64 * 0.018)
        assert found.times(40) == Standby(40 * found.closed_w, 40 * found.open_w)
    # CENT's device of 32 channels draws 8.4 W with open rows and 5.9 W with closed ones.
    aim = standby(DRAMS.load("gddr6-aim-16"), DRAM_ENERGIES.load("gddr6-cent"))
    refreshing_w = 2 * 81.9e-9 / (3333 * 0.5e-9)
    assert 16 * (aim.closed_w - refreshing_w) == pytest.approx(5.9, abs=0.05)
    assert 16 * (aim.closed_w - refreshing_w + aim.open_w) == pytest.approx(8.4, abs=0.05)


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_count_what_they_counted(name: str) -> None:
    """Catches a figure of the papers that changes with what they left out."""
    step = Pricer("gpt3-175b", name).step(decode=[2048] * 4)
    constant = step.constant
    assert (constant.standby_w, constant.devices_w, constant.host_w) == (0, 0, 0)
    assert [getattr(step.energy, part) for part in NEW] == [0, 0, 0]
    assert step.node_energy == step.energy
    before = sum(
        op.runs * getattr(op.energy, part.name)
        for op in step.operators
        for part in fields(EnergyBreakdown)
        if part.name not in NEW
    )
    before += constant.gpus_w * 1e3 * step.time_ns
    assert step.energy.total_pj == pytest.approx(before, rel=1e-12)


def test_both_sides_draw_power_over_the_whole_step() -> None:
    """Catches AttAccs that draw nothing while they wait, and open rows that cost nothing."""
    step = Pricer("llama-3.1-70b", "8xh200-attacc-hbm3").step(decode=[8192] * 16)
    busy = [op for op in step.operators if op.name in {"attention", "kv_append"}]
    busy_ns = sum(op.runs * op.time_ns for op in busy)
    assert 0 < busy_ns < step.time_ns
    stack = standby(DRAMS.load("hbm3-5.2"), DRAM_ENERGIES.load("fgdram-2017"))
    idle_pj = 40 * 1e3 * (stack.closed_w * step.time_ns + stack.open_w * busy_ns)
    assert step.energy.standby_pj == pytest.approx(idle_pj)
    assert step.energy.device_pj == pytest.approx(8 * (20 + 9.4) * 1e3 * step.time_ns)
    assert step.energy.host_pj == 0
    assert step.node_energy.host_pj == pytest.approx(2000 * 1e3 * step.time_ns)
    assert step.constant.node_w == pytest.approx(step.constant.boards_w + 2000)
    groups = (step.fc, step.attention, step.communication, step.other)
    total = sum(group.energy.total_pj for group in groups)
    assert total == pytest.approx(step.energy.total_pj, rel=1e-12)
    assert step.to_dict()["node_energy_pj"] == step.node_energy.total_pj


def test_the_boards_of_gpus_alone_are_the_same_in_both_systems() -> None:
    """Catches a host, or idle GPUs, of one side only."""
    plain, attacc = (
        Pricer("llama-3.1-70b", name).step(decode=[4096] * 8).constant
        for name in ("8xh200", "8xh200-attacc-hbm4")
    )
    assert (plain.gpus_w, plain.host_w) == (attacc.gpus_w, attacc.host_w)
    assert (plain.standby_w, plain.devices_w) == (0, 0)
    assert attacc.standby_w > 0
    assert plain.gpus_w == pytest.approx(8 * 132.2)


def test_many_steps_have_the_energy_of_each() -> None:
    """Catches a boundary that holds for single steps only."""
    pricer = Pricer("llama-3.1-70b", "8xb200-attacc-hbm3-shared")
    steps = pricer.steps(Batches.equal(8, np.array([1024, 4096])))
    for number in range(2):
        one = steps.at(number)
        assert steps.energy.at(number).total_pj == pytest.approx(one.energy.total_pj)
        assert steps.node_energy.at(number).host_pj == pytest.approx(one.node_energy.host_pj)


def test_a_prefill_waits_with_the_stacks_closed() -> None:
    """Catches standby that only decode steps draw, or open rows in a prefill."""
    pricer = Pricer("llama-3.1-8b", "8xh200-attacc-hbm3")
    step = pricer.step(prefill=[Chunk(512)])
    assert step.energy.standby_pj == pytest.approx(step.constant.standby_w * 1e3 * step.time_ns)


def test_standby_that_is_counted_has_to_be_given() -> None:
    """Catches a system whose standby is silently left out."""
    with pytest.raises(EngineError, match="8xh100-attacc-hbm3 counts the standby of its stacks"):
        constant_power(load_system("8xh100-attacc-hbm3"), 100.0, None)
    mine = load_system("8xh100-attacc-hbm3", **{"attacc.standby": False, "host_power": "0 W"})
    found = constant_power(mine, 100.0, None)
    assert (found.gpus_w, found.standby_w, found.host_w) == (800, 0, 0)
    assert found.devices_w == pytest.approx(8 * 29.4)


@pytest.mark.parametrize("model", ["gpt3-175b", "llama-3.1-70b"])
def test_every_layer_on_attaccs_starts_once(model: str) -> None:
    """Catches a start that is hidden, counted once a step, or that prefills and GPUs pay."""
    at = {
        start: Pricer(model, load_system("8xh200-attacc-hbm4", **{"attacc.start": start}))
        for start in ("0 s", "4 us")
    }
    without, with_start = (pricer.step(decode=[2048] * 4) for pricer in at.values())
    (start,) = (op for op in with_start.operators if op.name == "attention_start")
    layers = at["4 us"].model.model.layer_count
    assert (start.runs, start.time_ns, start.alone_ns) == (layers, 4000, 4000)
    assert (start.group, start.bound, start.energy.total_pj) == ("attention", "latency", 0)
    assert with_start.time_ns - without.time_ns == pytest.approx(4000 * layers)
    assert "attention_start" not in {op.name for op in without.operators}
    prefill = at["4 us"].step(prefill=[Chunk(512)])
    assert "attention_start" not in {op.name for op in prefill.operators}
    plain = Pricer(model, "8xh200").step(decode=[2048] * 4)
    assert "attention_start" not in {op.name for op in plain.operators}


def test_layers_that_stay_on_the_gpus_start_nothing() -> None:
    """Catches a start for layers whose attention runs on the GPUs."""
    pricer = Pricer("llama-3.1-70b", "8xh200-attacc-hbm3", sites={"full": "gpu"})
    step = pricer.step(decode=[2048] * 4)
    assert "attention_start" not in {op.name for op in step.operators}
    assert step.energy.standby_pj > 0
