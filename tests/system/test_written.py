"""Keys and values that are written into AttAccs: what they add to steps, in time and in energy."""

from functools import cache
from typing import Any

import numpy as np
import pytest

from attacc.errors import InputError
from attacc.gpu.models import GpuModel
from attacc.hardware.system import load_system
from attacc.pim.energy.dram import DRAM_ENERGIES
from attacc.system.batches import Batches, Chunk
from attacc.system.layer import APPEND, WRITES
from attacc.system.layer_attention import WRITTEN
from attacc.system.pricer import Arriving, Pricer, Prompts, Timed
from attacc.system.step import OperatorTime, StepCost
from attacc.workload.requests import fixed_lengths

LLAMA = "llama-3.1-70b"


def pricer(model: str = LLAMA, *, writes: bool = True, **keys: Any) -> Pricer:
    """A model on eight H100 with AttAccs of today."""
    system = load_system("8xh100-attacc-hbm3", **{"attacc.writes": writes} | keys)
    return Pricer(model, system)


def named(step: StepCost, name: str) -> OperatorTime | None:
    """The operator of a name; None where there is none."""
    found = [op for op in step.operators if op.name == name]
    assert len(found) <= 1
    return found[0] if found else None


@cache
def written_pj_per_byte() -> float:
    """Energy of a byte from the host to the cells, by the energies of the device."""
    e = DRAM_ENERGIES.load("fgdram-2017")
    path = e.interposer + e.tsv + e.bank_group_to_io + e.column_to_bank_group
    return 8 * (path + e.cell + e.activate)


@pytest.mark.parametrize("name", ["dgx-attacc-bank", "8xh100-attacc-hbm3"])
@pytest.mark.parametrize("gpu_model", list(GpuModel))
def test_systems_that_do_not_count_writes_have_none(name: str, gpu_model: GpuModel) -> None:
    """Catches writes in the papers' systems."""
    system = load_system(name, **{"attacc.writes": False})
    step = Pricer("gpt3-175b", system, gpu_model=gpu_model).step(
        decode=[2000] * 8, prefill=[Chunk(512)]
    )
    assert named(step, APPEND) is named(step, WRITES) is None
    assert WRITTEN not in step.estimates


def test_the_papers_systems_count_no_writes() -> None:
    """Catches a default that changes published figures."""
    for name in ("dgx-attacc-bank", "dgx-attacc-bankgroup", "dgx-attacc-buffer"):
        table = load_system(name).spec.attacc
        assert table is not None
        assert not table.writes


def test_decoding_requests_store_their_keys_before_attention() -> None:
    """Catches a store that is hidden, or counted once a step; prompts that nobody prefills."""
    without, counted = (pricer(writes=w).step(decode=[4000] * 100) for w in (False, True))
    stored = named(counted, APPEND)
    assert stored is not None
    assert (stored.runs, stored.time_ns) == (80, stored.alone_ns)
    assert 100 < stored.time_ns < 1000
    assert counted.time_ns - without.time_ns == pytest.approx(80 * stored.time_ns)
    assert named(counted, WRITES) is None
    assert WRITTEN in counted.estimates


def test_energy_of_writes_counts_every_byte_once() -> None:
    """Catches heads, layers, or one of keys and values that are left out or counted twice."""
    chunk, decode = Chunk(500), [3000] * 24
    at = {writes: pricer(writes=writes) for writes in (False, True)}
    pj_per_byte = written_pj_per_byte()
    token_bytes = 80 * 8 * 2 * 128 * 2
    cases: list[tuple[dict[str, Any], int]] = [
        ({"decode": decode}, 24),
        ({"prefill": [chunk]}, 500),
        ({"decode": decode, "prefill": [chunk, chunk]}, 1024),
    ]
    for step, tokens in cases:
        off, on = (
            sum(op.runs * op.energy.dram_pj for op in at[writes].step(**step).operators)
            for writes in (False, True)
        )
        assert on - off == pytest.approx(tokens * token_bytes * pj_per_byte, rel=1e-9)


@pytest.mark.parametrize("overlap", ["none", "attention", "layers"])
def test_writes_of_no_prompts_change_nothing(overlap: str) -> None:
    """Catches a decode step that pays for prompts of other steps."""
    own = pricer(prefill_overlap=overlap)
    alone = own.step(decode=[5000] * 50)
    both = own.steps(Batches.of([([5000] * 50, []), ([5000] * 50, [Chunk(256)])]))
    assert both.at(0).time_ns == alone.time_ns
    assert both.at(0).energy == alone.energy


def test_prompts_are_written_while_the_gpus_attend_for_them() -> None:
    """Catches writes that wait for attention on AttAccs to begin."""
    step = pricer().step(decode=[8000] * 64, prefill=[Chunk(2048, 2048)])
    written = named(step, WRITES)
    assert written is not None
    assert written.time_ns == 0
    assert written.alone_ns > 1000


def test_prompts_are_written_beside_attention_that_begins_with_them() -> None:
    """Catches writes that take no time where both kinds of attention run at once."""
    steps = {
        writes: pricer(writes=writes, prefill_overlap="attention").step(
            decode=[8000] * 128, prefill=[Chunk(2048)]
        )
        for writes in (False, True)
    }
    written, attention = (named(steps[True], name) for name in (WRITES, "attention"))
    assert written is not None
    assert attention is not None
    assert 0 < written.alone_ns < 1.2 * attention.alone_ns
    assert 0 < written.time_ns < written.alone_ns
    assert steps[True].time_ns > steps[False].time_ns


def test_transfers_that_are_not_hidden_write_beside_nothing() -> None:
    """Catches writes beside attention although keys and values are sent by themselves."""
    own = pricer(prefill_overlap="attention", transfer_overlap=False)
    written = named(own.step(decode=[8000] * 128, prefill=[Chunk(2048)]), WRITES)
    assert written is not None
    assert written.alone_ns == 0


@pytest.mark.parametrize("overlap", ["halves", "auto"])
@pytest.mark.parametrize("prefill", ["none", "auto"])
def test_parts_in_turn_have_the_writes_of_the_step(overlap: str, prefill: str) -> None:
    """Catches energy that is counted for each part, and prompts that a part has beside it."""
    at = [
        pricer(writes=writes, overlap=overlap, prefill_overlap=prefill) for writes in (False, True)
    ]
    off, on = (own.step(decode=[8000] * 64, prefill=[Chunk(1024)]) for own in at)
    tokens = (64 + 1024) * 80 * 8 * 2 * 128 * 2
    energies = [sum(op.runs * op.energy.dram_pj for op in step.operators) for step in (off, on)]
    assert energies[1] - energies[0] == pytest.approx(tokens * written_pj_per_byte(), rel=1e-6)
    assert on.time_ns >= off.time_ns


def test_heads_in_more_channels_are_written_sooner() -> None:
    """Catches keys of a head that lie in one channel whatever a chunk may hold.

    Units that serve eight queries have room for the scores of 512 keys, so a head is cut.
    """
    step: dict[str, Any] = {"decode": [8000] * 128, "prefill": [Chunk(4096)]}
    alone = pricer(prefill_overlap="attention").step(**step)
    shared = Pricer(
        LLAMA,
        load_system(
            "8xh100-attacc-hbm3-shared",
            **{"attacc.writes": True, "prefill_overlap": "attention"},
        ),
    ).step(**step)
    a, b = named(alone, WRITES), named(shared, WRITES)
    assert a is not None
    assert b is not None
    assert 4 * b.alone_ns < a.alone_ns


def test_many_sizes_at_once_equal_single_steps() -> None:
    """Catches writes of another step, where many are priced in one go."""
    own = pricer(prefill_overlap="attention")
    need = own.need(fixed_lengths(4000, 1000))
    sizes = np.array([20, 40])
    beside = Prompts(np.array([512, 2048]), np.array([0, 100]), np.array([1, 2]))
    priced = own.sized(
        sizes, np.array([4500, 4500]), timed=Timed((20, 40), (4500, 4500)), need=need, beside=beside
    )
    for index, (batch, chunk, many) in enumerate(((20, Chunk(512), 1), (40, Chunk(2048, 100), 2))):
        one = own.step(decode=[4500] * batch, prefill=[chunk] * many)
        assert priced.at(index).time_ns == pytest.approx(one.time_ns, rel=1e-9)
        assert priced.at(index).energy.total_pj == pytest.approx(one.energy.total_pj, rel=1e-9)


def arriving(own: Pricer, prompts: Arriving | None) -> StepCost:
    """A decode step to which keys and values come from other GPUs."""
    need = own.need(fixed_lengths(8000, 1000))
    sizes, keys = np.array([128]), np.array([8500])
    return own.sized(
        sizes, keys, timed=Timed((128,), (8500, 8500)), need=need, arriving=prompts
    ).at(0)


def test_prompts_from_other_gpus_are_written_beside_attention_for_its_share_of_a_step() -> None:
    """Catches arrivals that take no time, or that all meet attention."""
    own = pricer()
    alone = arriving(own, None)
    step = arriving(own, Arriving(np.array([0.125]), 8192))
    written, attention = named(step, WRITES), named(step, "attention")
    assert written is not None
    assert attention is not None
    assert 0 < written.time_ns < written.alone_ns
    layer = [op for op in alone.operators if op.layers]
    away = ("attention", "attention_start", APPEND, "qkv_transfer", "context_transfer")
    share = sum(op.time_ns for op in layer if op.name in away) / sum(op.time_ns for op in layer)
    assert written.time_ns == pytest.approx(share * written.alone_ns)
    assert step.time_ns - alone.time_ns == pytest.approx(80 * written.time_ns)
    more = arriving(own, Arriving(np.array([0.25]), 8192))
    twice = named(more, WRITES)
    assert twice is not None
    assert twice.time_ns == pytest.approx(2 * written.time_ns)


@pytest.mark.parametrize("overlap", ["none", "halves"])
def test_energy_of_arriving_prompts_counts_every_byte_once(overlap: str) -> None:
    """Catches prompts that count for each half, or whose mean number is left out."""
    own = pricer(overlap=overlap)
    a, b = (
        sum(op.runs * op.energy.dram_pj for op in step.operators)
        for step in (arriving(own, None), arriving(own, Arriving(np.array([0.5]), 1000)))
    )
    token_bytes = 80 * 8 * 2 * 128 * 2
    assert b - a == pytest.approx(500 * token_bytes * written_pj_per_byte(), rel=1e-6)


def test_no_arriving_prompts_change_nothing() -> None:
    """Catches a note, an operator or a time without writes."""
    own = pricer()
    assert arriving(own, Arriving(np.array([0.0]), 8192)) == arriving(own, None)


def test_a_device_without_ordinary_writes_is_refused() -> None:
    """Catches a key that has no effect."""
    system = load_system(
        "dgx-attacc-bank",
        **{"attacc.dram": "hbm3-5.2-asplos24", "attacc.schedule": "complete",
           "attacc.writes": True},
    )  # fmt: skip
    with pytest.raises(InputError, match="no commands for ordinary writes"):
        Pricer("gpt3-175b", system)
