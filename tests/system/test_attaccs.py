"""Attention of a whole batch on the AttAccs of a system, at every length it passes through."""

from dataclasses import dataclass
from math import isclose
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from attacc.errors import EngineError, InputError, UnknownNameError
from attacc.gpu.costs import BOUNDS, EnergyBreakdown
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import (
    AttaccTable,
    AttentionSite,
    Heads,
    ResolvedSystem,
    Schedule,
    SystemSpec,
    load_system,
    resolve_system,
)
from attacc.models.architecture import MODELS
from attacc.models.precision import ElementType
from attacc.pim.energy.dram import DRAM_ENERGIES
from attacc.pim.stack import Stack
from attacc.system import attaccs as attacc
from attacc.system.attaccs import Attaccs, AttentionCurve, CurveKind, LayerHeads
from tests import share

GPT3 = MODELS.load("gpt3-175b")
HEADS = LayerHeads.of_model(GPT3)
FP16 = ElementType.FP16
F64 = npt.NDArray[np.float64]


def system_with(
    *, stacks: int = 5, dram: str = "hbm3-5.2", heads: Heads = Heads.WHOLE, **table: Any
) -> ResolvedSystem:
    spec = SystemSpec(
        name="mine",
        gpu="a100a",
        gpus=8,
        link="nvlink3",
        attention=AttentionSite.ATTACC,
        attacc=AttaccTable(
            devices=8,
            stacks_per_device=stacks,
            placement=Placement.BANK,
            dram=dram,
            heads=heads,
            **table,
        ),
    )
    return resolve_system(spec)


@dataclass(frozen=True)
class Attended:
    """Attention of one layer in one step."""

    time_ns: float
    energy: EnergyBreakdown


def at(curve: AttentionCurve, length: int) -> Attended:
    got = curve.at([length])
    assert got.softmax_ns == 0
    return Attended(float(got.time_ns[0]), got.energy.at(0))


def attaccs(placement: Placement = Placement.BANK) -> Attaccs:
    return Attaccs(load_system(f"dgx-attacc-{placement}"))


def stack(placement: Placement = Placement.BANK) -> Stack:
    return Stack(
        DRAMS.load("hbm3-5.2"), placement, power_limited=True, schedule=Schedule.INTERLEAVED
    )


def barriers(placement: Placement = Placement.BANK) -> Stack:
    return Stack(
        DRAMS.load("hbm3-5.2-asplos24"), placement, power_limited=True, schedule=Schedule.COMPLETE
    )


@pytest.mark.parametrize("placement", list(Placement))
def test_an_exact_curve_is_the_stack_at_every_length(placement: Placement) -> None:
    """Catches a length that is rounded to another program, or energy of the wrong heads.

    480 heads are 12 for each of 40 stacks. Energy within 1e-3: the softmax of up to 15 padding
    keys is counted, at lengths around 100.
    """
    lengths = range(97, 130)
    curve = attaccs(placement).curve(HEADS, 5, lengths)
    assert (curve.kind, curve.relative_error) == (CurveKind.EXACT, 0)
    assert curve.heads_per_stack == 12
    one = stack(placement)
    for length in lengths:
        run = one.attend(heads=12, length=length, head_dim=128, element=FP16)
        got = at(curve, length)
        assert got.time_ns == run.time_ns
        total_pj = run.energy.total_pj / 12 * 5 * 96
        assert isclose(got.energy.total_pj, total_pj, rel_tol=1e-3)
        alu_pj = (run.energy.multiply_pj + run.energy.softmax_pj) / 12 * 5 * 96
        assert isclose(got.energy.alu_pj, alu_pj, rel_tol=2e-3)
        assert (got.energy.l2_pj, got.energy.link_pj) == (0, 0)


def compare_with_exact(
    monkeypatch: pytest.MonkeyPatch, placement: Placement, batch: int, lengths: range, budget: int
) -> tuple[AttentionCurve, F64, F64]:
    """Return a sampled curve, and times of it and of the exact one at all lengths."""
    source = attaccs(placement)
    monkeypatch.setattr(attacc, "MULTIPLY_BUDGET", 10**12)
    exact = source.curve(HEADS, batch, lengths)
    assert exact.kind is CurveKind.EXACT
    monkeypatch.setattr(attacc, "MULTIPLY_BUDGET", budget)
    sampled = source.curve(HEADS, batch, lengths)
    assert sampled.kind is CurveKind.INTERPOLATED
    got, true = (
        np.array([at(curve, length).time_ns for length in lengths]) for curve in (sampled, exact)
    )
    return sampled, got, true


@pytest.mark.untraced  # of hundreds of lengths, each a stack of its own
@pytest.mark.parametrize(
    ("placement", "batch", "lengths", "budget", "most"),
    share.cases(
        __name__,
        [
            (Placement.BANK, 35, range(2049, 4096), 60_000, 0.2),
            (Placement.BANK, 35, range(2049, 4096), 400_000, 0.2),
            (Placement.BANK, 3, range(1, 1200), 1_000, 1),
            (Placement.BANK, 20, range(4000, 8000), 200_000, 0.2),
            (Placement.BANKGROUP, 20, range(2049, 4096), 100_000, 0.2),
            (Placement.BANKGROUP, 5, range(128, 2000), 40_000, 1),
            (Placement.BUFFER, 3, range(1, 500), 20_000, 1),
            (Placement.BUFFER, 2, range(100, 1500, 3), 200_000, 1),
        ],
        4,
    ),
)
def test_an_interpolated_curve_states_its_error(
    monkeypatch: pytest.MonkeyPatch,
    placement: Placement,
    batch: int,
    lengths: range,
    budget: int,
    most: float,
) -> None:
    """Catches an error that is larger than stated: of the mean, which is what a step takes.

    With fewer heads than channels time jumps where heads are cut otherwise; what is stated must
    tell.

    A single length may be off by several times as much, since time rises in steps: of these eight
    curves, by at most 7.4 times; asserted with 10.
    """
    curve, got, true = compare_with_exact(monkeypatch, placement, batch, lengths, budget)
    assert 0 < curve.relative_error < most
    assert abs(np.mean(got) / np.mean(true) - 1) < curve.relative_error
    assert np.max(np.abs(got / true - 1)) < 10 * curve.relative_error
    assert got[0] == true[0], "the shortest length is timed"
    assert got[-1] == true[-1], "the longest length is timed"


def test_lengths_are_not_sampled_in_step_with_the_schedule() -> None:
    """Catches an even spacing: 16 keys apart, all samples are at the same phase of a move."""
    sampled = attacc._sampled(128, 256, 9)  # pyright: ignore[reportPrivateUsage]
    assert len(sampled) == 9
    assert (sampled[0], sampled[-1]) == (128, 256)
    assert np.all(np.diff(sampled) > 0)
    assert len(set(sampled % 16)) > 4


def test_energy_grows_with_the_batch_and_time_with_the_fullest_channel() -> None:
    """Catches energy of the fullest stack times all stacks, or time of the mean stack."""
    source = attaccs()
    # 3 and 6 heads for every channel.
    twenty, forty = (at(source.curve(HEADS, batch, [1000]), 1000) for batch in (20, 40))
    assert isclose(forty.energy.total_pj, 2 * twenty.energy.total_pj, rel_tol=1e-12)
    # Heads that are cut need their queries in every channel that has a part.
    for batch in (1, 7, 11, 19, 35):
        got = at(source.curve(HEADS, batch, [1000]), 1000)
        assert 1 < got.energy.total_pj / (batch / 20 * twenty.energy.total_pj) < 1.1
    times = [at(source.curve(HEADS, batch, [1000]), 1000).time_ns for batch in range(1, 36)]
    # 96 heads of a request on 640 channels: fewer heads than channels are cut, so that a single
    # request takes less than six, and more are evened out.
    assert times[0] < 0.5 * times[5]
    assert times[5] < times[19] < times[34]
    assert max(time / batch for batch, time in enumerate(times[6:], start=7)) < times[5] / 5


def test_stacks_that_hold_a_head_less_count_as_such() -> None:
    """Catches energy of the fullest stack for all: 96 heads are 3 for 16 stacks, 2 for 24."""
    one = stack()
    three, two = (
        one.attend(heads=heads, length=960, head_dim=128, element=FP16) for heads in (3, 2)
    )
    got = at(attaccs().curve(HEADS, 1, [960]), 960)
    assert got.time_ns == max(three.time_ns, two.time_ns)
    energy_pj = 16 * three.energy.total_pj + 24 * two.energy.total_pj
    assert isclose(got.energy.total_pj, energy_pj, rel_tol=1e-12)


@pytest.mark.parametrize("queries_per_read", [1, 2, 4, 8, 100])
def test_grouped_queries_share_reads_as_the_system_says(queries_per_read: int) -> None:
    """Catches a system whose queries_per_read does not reach its stacks."""
    model = MODELS.load("llama-2-70b")
    source = Attaccs(system_with(queries_per_read=queries_per_read))
    curve = source.curve(LayerHeads.of_model(model), 80, [2048])
    passes = -(-8 // queries_per_read)
    assert (curve.heads_per_stack, curve.passes_per_kv_head) == (16 * 8, passes)
    run = stack().attend(
        heads=128, length=2048, head_dim=128, element=FP16, queries_per_kv_head=8,
        queries_per_read=queries_per_read,
    )  # fmt: skip
    assert at(curve, 2048).time_ns == run.time_ns
    assert isclose(at(curve, 2048).energy.total_pj, 40 * run.energy.total_pj, rel_tol=1e-12)


def test_the_papers_stack_behind_barriers() -> None:
    """Catches a device and schedule that can no longer be asked for, or another share of heads."""
    source = Attaccs(system_with(dram="hbm3-5.2-asplos24", schedule=Schedule.COMPLETE))
    for batch, heads in ((5, 12), (7, 17)):
        curve = source.curve(HEADS, batch, [1008])
        run = barriers().attend(heads=heads, length=1008, head_dim=128, element=FP16)
        assert curve.heads_per_stack == heads
        assert at(curve, 1008).time_ns == run.time_ns
        energy_pj = run.energy.total_pj / heads * batch * 96
        assert isclose(at(curve, 1008).energy.total_pj, energy_pj, rel_tol=1e-12)
    with pytest.raises(
        InputError, match=r"system mine: attacc.schedule: .* needs a device with a \[pipeline\]"
    ):
        Attaccs(system_with(dram="hbm3-5.2-asplos24"))


@pytest.mark.parametrize(
    ("model", "batch", "heads"),
    [
        ("gpt3-175b", 1, 3),
        ("gpt3-175b", 35, 84),
        ("gpt3-175b", 36, 87),
        # 3 x 8 key/value heads on 40 stacks: one, with its four query heads.
        ("llama-3.1-8b", 3, 4),
        ("llama-3.1-8b", 6, 8),
        ("llama-3.1-8b", 1000, 800),
    ],
)
def test_heads_of_the_fullest_stack(model: str, batch: int, heads: int) -> None:
    """Catches heads that are rounded down, or query heads apart from the keys they share."""
    assert (
        attaccs().curve(LayerHeads.of_model(MODELS.load(model)), batch, [100]).heads_per_stack
        == heads
    )


def test_fewer_stacks_take_longer() -> None:
    """Catches stacks of one device in place of all."""
    few, many = (Attaccs(system_with(stacks=stacks)) for stacks in (1, 5))
    assert (few.stacks, many.stacks) == (8, 40)
    times = [at(source.curve(HEADS, 40, [2000]), 2000).time_ns for source in (few, many)]
    assert isclose(times[0] / times[1], 30 / 6, rel_tol=0.05)


def test_stacks_are_those_of_the_device() -> None:
    """Catches a size or a rate that is written down twice."""
    device = DRAMS.load("hbm3-5.2")
    source = attaccs(Placement.BANKGROUP)
    assert source.stack_bytes == device.organization.stack_bytes == 16 * 2**30
    assert isclose(source.rates.interface_bytes_per_s, 5 * device.external_bytes_per_s)
    internal = device.internal_bytes_per_s(Placement.BANKGROUP, power_limited=True)
    assert isclose(source.rates.internal_bytes_per_s, 5 * internal)
    # Activate, cell, and from the column to the bank group's unit (FGDRAM, MICRO 2017).
    assert isclose(source.rates.read_pj_per_byte, 8 * (0.11 + 0.44 + 1.01))
    assert source.rates.multiply_add_pj == DRAM_ENERGIES.load("fgdram-2017").multiply_add


def test_faults() -> None:
    """Catches a system without AttAccs that attends in no time, and an unnamed field."""
    with pytest.raises(EngineError, match="dgx-base has no AttAccs"):
        Attaccs(load_system("dgx-base"))
    with pytest.raises(UnknownNameError, match=r"system mine: attacc\.dram: .*'hbm3-5.2-asplos23'"):
        Attaccs(system_with(dram="hbm3-5.2-asplos23"))


# What the curve takes for granted of a stack.


@pytest.mark.parametrize("placement", list(Placement))
def test_idle_channels_of_a_round_change_neither_time_nor_energy_per_head(
    placement: Placement,
) -> None:
    """Catches full rounds in place of the heads there are that would not be the same."""
    one = barriers(placement)
    for first, last in ((1, 16), (17, 32), (65, 80)):
        few, all_ = (
            one.attend(heads=heads, length=300, head_dim=128, element=FP16)
            for heads in (first, last)
        )
        assert few.cycles == all_.cycles
        assert isclose(few.energy.total_pj / first, all_.energy.total_pj / last, rel_tol=1e-12)


def test_query_heads_that_share_keys_read_them_once_each() -> None:
    """Catches commands that are left out for shared keys, or keys stored once per query head."""
    one = barriers()
    apart, shared = (
        one.attend(heads=128, length=2000, head_dim=128, element=FP16, queries_per_kv_head=queries)
        for queries in (1, 8)
    )
    counts = {entry.command: entry.count for entry in shared.commands}
    for entry in apart.commands:
        if entry.command in ("MACAB", "WRGB", "MVSB", "MVGB", "SFM"):
            assert counts[entry.command] == entry.count
    # Rows may stay open, or be closed by another refresh: the same time within 1 %.
    assert isclose(shared.cycles, apart.cycles, rel_tol=0.01)
    assert shared.read_bytes == apart.read_bytes
    # Two times 16 rows for each of 600 heads in every channel, of the 16,384 that a bank has.
    with pytest.raises(InputError, match="600 heads of length 4000 in one channel"):
        one.attend(heads=16 * 600, length=4000, head_dim=128, element=FP16)
    fitting = one.attend(
        heads=16 * 600, length=4000, head_dim=128, element=FP16, queries_per_kv_head=60
    )
    assert fitting.cycles > 100 * shared.cycles


def test_shared_keys_need_no_more_rows_than_they_take() -> None:
    """Catches a batch that fits and is refused, since every query head stores keys of its own.

    3,840 requests with one key/value head each are 6 for every channel: 192 rows. With copies for
    each of 96 query heads they would be 18,432, of the 16,384 of a bank.
    """
    model = GPT3.model_copy(update={"kv_heads": 1})
    curve = attaccs().curve(LayerHeads.of_model(model), 3840, [4000])
    assert curve.heads_per_stack == 96 * 96
    assert at(curve, 4000).time_ns > 6 * 96 * 1000


def limits(bound: npt.NDArray[np.int8]) -> list[str]:
    return [str(BOUNDS[int(code)]) for code in bound]


def test_the_limiter_is_that_of_the_stack() -> None:
    """Catches limits that get lost on the way from a stack, or those of another length.

    Of the sampled lengths the nearest one counts, so that neighbours of a timed length have its
    limiter.
    """
    heads = LayerHeads(kv_heads=8, group=8, head_dim=128, element=FP16)
    shared = Attaccs(system_with(heads=Heads.CUT, queries_per_read=8))
    lengths = [40, 8192]
    curve = shared.curve(heads, 16, lengths)
    assert limits(curve.at(lengths).bound) == ["moves", "units"]
    assert limits(curve.at([40, 41, 8100]).bound) == ["moves", "moves", "units"]
    for length, limit in zip(lengths, ("moves", "units"), strict=True):
        assert limits(shared.attend(heads, [length] * 16).bound) == [limit]
    unlimited = Attaccs(system_with(heads=Heads.CUT, power_limited=False))
    assert limits(unlimited.attend(HEADS, [2048] * 4).bound) == ["reads"]
    whole = Attaccs(system_with(heads=Heads.WHOLE, power_limited=False))
    assert limits(whole.curve(HEADS, 4, [2048]).at([2048]).bound) == ["reads"]
    windows = LayerHeads(kv_heads=8, group=1, head_dim=128, element=FP16, window=1024)
    assert limits(unlimited.curve(windows, 8, [4096]).at([4096]).bound) == ["reads"]


@pytest.mark.parametrize("kind", [{}, {"window": 24}, {"chunk": 16}])
def test_no_longer_context_attends_to_fewer_keys_than_told(kind: dict[str, Any]) -> None:
    """Catches a bound from the shortest context, where chunks begin anew at their multiples."""
    heads = LayerHeads(kv_heads=8, group=8, head_dim=128, element=ElementType.FP16, **kind)
    for least in (1, 15, 16, 17, 40):
        longer = np.arange(least, least + 100)
        assert 1 <= heads.seen_at_least(least) <= heads.seen(longer).min()
