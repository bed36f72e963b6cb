"""AttAcc as a host sees it: values bit for bit, costs against the engine, room, and bad input."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attacc.errors import CapacityError, InputError
from attacc.hardware.dram import DRAMS, DramDevice
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule, load_system
from attacc.models.precision import ElementType
from attacc.pim.energy.dram import DRAM_ENERGIES, attention_energy
from attacc.pim.host.device import AttaccHardware, AttendCost, HostDevice, KvShape, LinkBytes
from attacc.pim.mapping.balance import Assignment, Chunk
from attacc.pim.numerics.arithmetic import Arithmetic, Normalization, Order
from attacc.pim.numerics.formats import Format
from attacc.pim.numerics.plan import AttentionPlan
from attacc.pim.program.interleaved import QueryPasses, interleaved_program
from attacc.pim.program.program import AddressLayout
from attacc.pim.timing.engine import TimedRun, run
from attacc.pim.timing.tables import resolve_timing
from tests import share
from tests.pim.host.cases import (
    DEVICE,
    F32,
    LINK,
    Mirror,
    assert_same_bits,
    host_of,
    placed,
    small,
)

FP16 = ElementType.FP16
WIDE = Arithmetic(multiplier=Format.FP32, adder=Format.FP32, accumulator=Format.FP32)
PLACEMENTS = pytest.mark.parametrize("placement", list(Placement))

ARITHMETICS = st.sampled_from(
    [
        (FP16, Arithmetic()),
        (FP16, WIDE),
        (FP16, Arithmetic(accumulator=Format.FP32, output=Format.FP32)),
        (FP16, Arithmetic(normalization=Normalization.AFTER, merge=Order.PAIRWISE)),
        (FP16, Arithmetic(tree=Order.SEQUENTIAL, groups=Order.PAIRWISE, lanes=8)),
        (ElementType.BF16, Arithmetic.of(ElementType.BF16)),
        (ElementType.BF16, Arithmetic.of(ElementType.BF16).model_copy(
            update={"adder": Format.BF16, "multiplier": Format.BF16})),
    ]
)  # fmt: skip


# Values.


@pytest.mark.untraced  # of the oracle most of all
@PLACEMENTS
@given(data=st.data())
@settings(max_examples=share.examples(__name__, 25, 10))
def test_any_session_gives_the_bits_of_the_oracle(
    placement: Placement, data: st.DataObject
) -> None:
    """Catches tokens written to a wrong place, stale rows, chunks lost or merged in a wrong order.

    Requests come, grow layer by layer and unevenly, are attended to in any order, and leave.
    """
    element, arithmetic = data.draw(ARITHMETICS)
    group = data.draw(st.integers(1, 3), label="queries per head")
    shape = KvShape(
        data.draw(st.integers(1, 2), label="layers"), data.draw(st.integers(1, 3), label="heads"),
        group, data.draw(st.sampled_from([8, 16, 40]), label="head_dim"), element,
    )  # fmt: skip
    host = host_of(
        small(data.draw(st.integers(1, 3), label="channels"), rows=2048), placement, shape,
        stacks_per_device=data.draw(st.integers(1, 2), label="stacks"),
        arithmetic=arithmetic, queries_per_read=data.draw(st.integers(1, group), label="per read"),
        growing_keys=data.draw(st.integers(1, 16), label="growing"),
    )  # fmt: skip
    mirror = Mirror(host)
    everything = host.free_bytes
    for _ in range(data.draw(st.integers(2, 6), label="steps")):
        request = data.draw(st.integers(0, 2), label="request")
        tokens = data.draw(st.sampled_from([1, 1, 2, 17, 40, 100]), label="tokens")
        some = data.draw(st.booleans(), label="one layer only")
        mirror.append(request, tokens, [0] if some else None)
        if data.draw(st.integers(0, 4), label="leaves") == 0:
            mirror.free(request)
    for layer in range(shape.layers):
        there = [one for one in host.requests if host.length(one, layer)]
        if there:
            mirror.check(layer, data.draw(st.permutations(there), label="asked"))
    for request in host.requests:
        host.free(request)
    assert host.free_bytes == everything


@PLACEMENTS
@pytest.mark.parametrize("element", [ElementType.INT8, ElementType.FP8])
def test_eight_bits_keep_the_scale_of_the_first_tokens(
    placement: Placement, element: ElementType
) -> None:
    """Catches a scale that is chosen anew, or read for another head or layer."""
    host = host_of(small(2, rows=512), placement, KvShape(2, 2, 2, 24, element), scale_margin=1)
    mirror = Mirror(host)
    mirror.append(5, 30)
    # Not beyond the largest of the first ones, so that the oracle's scale is theirs.
    bounded = Mirror(host, mirror.random, mirror.keys, mirror.values)
    bounded.draw = lambda *shape: np.clip(  # type: ignore[method-assign]
        mirror.draw(*shape), -0.5, 0.5
    )
    bounded.append(5, 3)
    for layer in range(2):
        mirror.check(layer, [5])
    assert host.saturated == 0


def test_saturation_is_counted() -> None:
    """Catches values that are cut down without a word."""
    shape = KvShape(1, 2, 1, 16, ElementType.INT8)
    host = host_of(small(1), Placement.BANK, shape)
    ones = np.ones((2, 1, 16), dtype=np.float32)
    assert host.append(0, 0, ones, ones).saturated == 0
    within = host.append(0, 0, 1.2 * ones, -1.2 * ones)
    assert within.saturated == host.saturated == 0
    beyond = ones.copy()
    beyond[1, 0, 3:5] = 1.3, -7
    assert host.append(0, 0, beyond, ones).saturated == 2
    assert host.saturated == 2


@PLACEMENTS
def test_as_a_fresh_plan_of_the_same_assignment(placement: Placement) -> None:
    """Catches whatever the two ways into the kernels do differently."""
    shape = KvShape(1, 2, 3, 64, FP16)
    host = host_of(DEVICE, placement, shape, queries_per_read=2)
    mirror = Mirror(host)
    for request, tokens in ((4, 700), (9, 33)):
        mirror.append(request, tokens)
        mirror.append(request, 1)
    for arithmetic in (Arithmetic(), WIDE):
        device = host_of(DEVICE, placement, shape, queries_per_read=2, arithmetic=arithmetic)
        for request in (4, 9):
            keys, values = mirror.keys[request, 0], mirror.values[request, 0]
            device.append(request, 0, keys[:, :-1], values[:, :-1])
            device.append(request, 0, keys[:, -1:], values[:, -1:])
        assignment, capacities = dealt(device, [4, 9], 0)
        plan = AttentionPlan.of_assignment(
            DEVICE, device.state.groups[0].layout.head(1), assignment,
            passes=QueryPasses.of(3, 2), capacities=capacities,
        )  # fmt: skip
        stored = plan.store(
            [one for request in (4, 9) for one in mirror.keys[request, 0]],
            [one for request in (4, 9) for one in mirror.values[request, 0]],
            arithmetic,
        )
        q = mirror.draw(2, 6, 64)
        theirs = plan.attend(stored, q.reshape(4, 3, 64), arithmetic)
        ours = device.attend(0, [4, 9], q)
        assert_same_bits(ours.context.reshape(4, 3, 64), theirs.context)


def dealt(
    host: HostDevice, requests: Sequence[int], layer: int, stack: int = 0
) -> tuple[Assignment, list[list[int]]]:
    """What a stack holds, in the order of its softmaxes, and for how many keys there is room."""
    channels: list[list[tuple[Chunk, int]]] = [
        [] for _ in range(host.hardware.device.organization.channels)
    ]
    for at, request in enumerate(requests):
        for chunks in placed(host, request):
            for chunk in chunks:
                keys = chunk.keys(host.length(request, layer))
                if keys and chunk.stack == stack:
                    head = at * len(placed(host, request)) + chunk.head
                    channels[chunk.channel].append((Chunk(head, chunk.start, keys), chunk.capacity))
    quantum = host.state.groups[0].growth.quantum
    for own in channels:
        own.sort(key=lambda one: (-min(-(-one[0].length // quantum) * quantum, one[1]), one[0]))
    return (
        Assignment.of(tuple(tuple(chunk for chunk, _ in own) for own in channels)),
        [[room for _, room in own] for own in channels],
    )


def test_layers_are_independent() -> None:
    """Catches a layer that reads rows of another, whichever was appended first."""
    shape = KvShape(3, 2, 1, 16, FP16)
    answers: list[list[F32]] = []
    for order in ([0, 1, 2], [2, 0, 1]):
        mirror = Mirror(host_of(small(2, rows=512), Placement.BANK, shape))
        random = np.random.default_rng(3)
        data = random.standard_normal((3, 2, 2, 50, 16)).astype(np.float32)
        q = random.standard_normal((3, 1, 2, 16)).astype(np.float32)
        for first, last in ((0, 20), (20, 49), (49, 50)):
            for layer in order:
                mirror.host.append(7, layer, *data[layer, :, :, first:last])
        answers.append([mirror.host.attend(layer, [7], q[layer]).context for layer in range(3)])
    for one, other in zip(*answers, strict=True):
        assert_same_bits(one, other)
    assert not np.array_equal(answers[0][0], answers[0][1])


def test_rows_are_used_again_and_empty() -> None:
    """Catches a free list that forgets rows, and padding that is not zero any more."""
    shape = KvShape(2, 2, 1, 16, FP16)
    host = host_of(small(1, rows=32), Placement.BANK, shape, growing_keys=1)
    mirror = Mirror(host)
    for round_ in range(5):
        mirror.append(round_, 60)
        mirror.append(10 + round_, 3)
        mirror.free(round_)
        for layer in range(2):
            mirror.check(layer, [10 + round_])
        if round_ > 1:
            mirror.free(10 + round_ - 1)
    rows = [row for one in host.requests for own in placed(host, one) for row in own[0].rows.flat]
    assert len(rows) == len(set(rows))


def test_heads_are_cut_over_stacks_only_where_they_must() -> None:
    """Catches a head refused although two stacks have room for it, or cut without need."""
    shape = KvShape(1, 1, 2, 16, FP16)
    # A channel has 8 rows: 4 for keys of 64 each.
    device = small(1, rows=8, longest=64)
    host = host_of(device, Placement.BANK, shape, stacks_per_device=2, growing_keys=1)
    mirror = Mirror(host)
    mirror.append(0, 100)
    assert {chunk.stack for chunk in placed(host, 0)[0]} == {0}
    assert mirror.check(0, [0]).cost.stacks == 1
    mirror.append(1, 100)
    assert {chunk.stack for chunk in placed(host, 1)[0]} == {1}
    mirror.append(2, 200)
    assert {chunk.stack for chunk in placed(host, 2)[0]} == {0, 1}
    attended = mirror.check(0, [2, 0])
    assert attended.cost.stacks == 2
    # Per query: 16 elements of 2 B to two stacks and to one; 16 parts in fp32, a maximum and a
    # sum from two stacks, 16 elements of 2 B from one.
    assert attended.cost.link == LinkBytes(
        queries=2 * (2 * 32 + 32), contexts=2 * (2 * (64 + 8) + 32)
    )


def test_kernels_compute_what_python_does() -> None:
    """Catches casts and sums that behave otherwise when compiled; shows kernels to coverage."""
    printed: list[str] = []
    for disabled in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "tests.pim.host.small_case"],
            env=os.environ | {"NUMBA_DISABLE_JIT": disabled},
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert printed[0] == printed[1]
    assert printed[0]


# Costs.


@PLACEMENTS
@pytest.mark.parametrize("queries", [(1, 1), (3, 2)])
def test_costs_are_those_of_the_engine(placement: Placement, queries: tuple[int, int]) -> None:
    """Catches a plan that is not what a stack would play, or costs of another length."""
    group, per_read = queries
    shape = KvShape(2, 3, group, 64, FP16)
    host = host_of(DEVICE, placement, shape, stacks_per_device=2, queries_per_read=per_read)
    mirror = Mirror(host)
    for request, tokens in ((0, 900), (1, 77), (2, 300)):
        mirror.append(request, tokens)
    mirror.append(1, 1, [0])
    passes = QueryPasses.of(group, per_read)
    tables = resolve_timing(DEVICE, placement, power_limited=True, queries_per_read=passes.most)
    energies = DRAM_ENERGIES.load(DEVICE.energy)
    for layer, requests in ((0, [0, 1, 2]), (1, [2, 1])):
        cost = mirror.attend(layer, requests)[0].cost
        runs: list[TimedRun] = []
        energy = 0.0
        for stack in range(2):
            # With the true lengths of the layer, of which the plan knows the columns.
            assignment, capacities = dealt(host, requests, layer, stack)
            if not any(assignment.channels):
                continue
            program = interleaved_program(
                DEVICE, host.state.groups[0].layout, assignment,
                multiply_interval=tables.multiply_interval, queries=group,
                queries_per_read=passes.most, capacities=capacities,
            )  # fmt: skip
            runs.append(run(program, tables))
            energy += attention_energy(
                runs[-1], host.state.groups[0].layout, sum(assignment.keys) * group, energies,
                banks_per_multiply=DEVICE.banks_per_command(placement),
                queries_per_read=group / passes.passes,
            ).total_pj  # fmt: skip
        assert cost.cycles == max(one.cycles for one in runs)
        assert cost.time_ns == max(one.time_ns for one in runs)
        assert cost.energy_pj == pytest.approx(energy, rel=1e-12)
        name = {"bank": "MACAB", "bankgroup": "MACSB", "buffer": "MACPB"}[placement.value]
        banks = {"bank": 64, "bankgroup": 16, "buffer": 2}[placement.value]
        assert cost.bank_read_bytes == sum(one.count(name) for one in runs) * banks * 32
        assert cost.stacks == len(runs)


def test_rows_may_lie_anywhere() -> None:
    """Catches timing that asks of rows more than which of them are the same.

    What issues when is compared with the rows of the banks in place of the plan's.
    """
    device = small(1, rows=128)
    shape = KvShape(3, 2, 2, 16, FP16)
    host = host_of(device, Placement.BANK, shape, growing_keys=1)
    mirror = Mirror(host)
    mirror.append(0, 10)
    mirror.append(1, 150)
    mirror.free(0)
    mirror.append(2, 90)
    tables = resolve_timing(device, Placement.BANK, power_limited=True)
    assignment, capacities = dealt(host, [1, 2], 2)
    program = interleaved_program(
        device, host.state.groups[0].layout, assignment, multiply_interval=tables.multiply_interval,
        queries=2, capacities=capacities,
    )  # fmt: skip
    virtual = run(program, tables, log=True)
    at = AddressLayout.of(device.organization)
    by_place = {
        (chunk.channel, number * 2 + chunk.head, chunk.start): chunk.rows[2]
        for number, request in enumerate((1, 2))
        for chunks in placed(host, request)
        for chunk in chunks
    }
    scattered = False
    address = program.address.copy()
    for channel, own in enumerate(assignment.channels):
        rows = np.concatenate([by_place[channel, one.head, one.start] for one in own])
        scattered |= not np.array_equal(np.sort(rows), rows) or bool((np.diff(rows) > 1).any())
        steps = np.flatnonzero(
            (program.first_channel <= channel)
            & (channel < program.first_channel + program.channels)
        )
        assert (program.channels[steps] == 1).all()
        row = address[steps] >> at.row & device.organization.rows - 1
        address[steps] += (rows[row] - row) << at.row
    assert scattered
    real = run(replace(program, address=address), tables, log=True)
    assert real.commands == virtual.commands
    assert real.log is not None
    assert virtual.log is not None
    assert [(one.cycle, one.command, one.channel) for one in real.log] == [
        (one.cycle, one.command, one.channel) for one in virtual.log
    ]


def test_link_bytes_by_hand() -> None:
    """Catches bytes counted twice, in elements, or of padding."""
    shape = KvShape(2, 3, 4, 24, FP16)
    host = host_of(small(2, rows=512), Placement.BANK, shape, devices=2)
    keys = np.ones((3, 10, 24), dtype=np.float32)
    appended = host.append(1, 0, keys, keys)
    assert appended.link == LinkBytes(keys_values=2 * 3 * 10 * 24 * 2)
    # Two heads go to one AttAcc, one to the other; 300 GB/s each way.
    assert appended.link_ns == pytest.approx(2 * 2 * 10 * 24 * 2 / 300)
    assert appended.link_pj == appended.link.total * LINK.energy_pj_per_byte
    cost = host.attend(0, [1], np.ones((1, 12, 24), dtype=np.float32)).cost
    assert cost.link == LinkBytes(queries=12 * 24 * 2, contexts=12 * 24 * 2)
    assert cost.link_ns == pytest.approx(2 * (2 * 4 * 24 * 2) / 300)
    assert host.traffic == LinkBytes(2 * 288, 2880, 2 * 288)
    assert (host.traffic.inward, host.traffic.outward, host.traffic.total) == (3456, 576, 4032)
    eight = host_of(small(1), Placement.BANK, KvShape(1, 1, 2, 24, ElementType.INT8))
    tensor = keys[:1, :2]
    # Scales of keys and values come with the first tokens, one with every query.
    assert eight.append(1, 0, tensor, tensor).link.keys_values == 2 * 2 * 24 + 2 * 4
    assert eight.append(1, 0, tensor, tensor).link.keys_values == 2 * 2 * 24
    cost = eight.attend(0, [1], np.ones((1, 2, 24), dtype=np.float32)).cost
    assert cost.link == LinkBytes(queries=2 * (24 + 4), contexts=2 * 24 * 2)


def test_costs_add_up() -> None:
    one = AttendCost(10, 7.5, 2.0, 100.0, 5.0, LinkBytes(1, 0, 2), 64, 1)
    other = AttendCost(5, 2.5, 1.0, 50.0, 5.0, LinkBytes(3, 0, 4), 32, 3)
    assert AttendCost.total([one, other]) == AttendCost(
        15, 10.0, 3.0, 150.0, 10.0, LinkBytes(4, 0, 6), 96, 3
    )
    assert AttendCost.total([]) == AttendCost(0, 0, 0, 0, 0, LinkBytes(), 0, 0)


# Room.


def snapshot(host: HostDevice) -> object:
    requests = {one: [host.length(one, layer) for layer in range(2)] for one in host.requests}
    return host.free_bytes, host.traffic, requests, host.state.groups[0].residence.loads.tolist()


def test_what_does_not_fit_is_refused_whole() -> None:
    """Catches half a request that remains, or room that is lost."""
    shape = KvShape(2, 1, 1, 16, FP16)
    # 16 rows, 2 layers of keys and values: 4 chunks of 64 keys.
    host = host_of(small(1, rows=16), Placement.BANK, shape, growing_keys=1)
    row = 4 * 32 * 64
    assert host.capacity_bytes == host.free_bytes == 16 * row
    mirror = Mirror(host)
    mirror.append(0, 128)
    assert host.free_bytes == 8 * row
    before = snapshot(host)
    with pytest.raises(CapacityError, match="129 more keys and values of request 1") as caught:
        mirror.append(1, 129)
    assert caught.value.shortfall.needed_bytes == 12 * row
    assert caught.value.shortfall.available_bytes == 8 * row
    assert "free a request" in str(caught.value)
    with pytest.raises(CapacityError, match="129 more keys and values of request 0"):
        mirror.append(0, 129, [1])
    assert snapshot(host) == before
    mirror.append(1, 128)
    assert host.free_bytes == 0
    with pytest.raises(CapacityError):
        mirror.append(0, 1)
    mirror.check(1, [0, 1])
    mirror.free(1)
    mirror.append(0, 1)
    mirror.check(1, [0])


def test_room_for_growing_gives_way_to_keys() -> None:
    """Catches a request refused because others might grow, or a chunk that never gets its room."""
    shape = KvShape(1, 2, 1, 16, FP16)
    device = small(1, rows=8, longest=256)
    host = host_of(device, Placement.BANK, shape, growing_keys=256)
    mirror = Mirror(host)
    mirror.append(0, 10)
    assert host.free_bytes == 0 or placed(host, 0)[0][-1].capacity < 256
    mirror.append(0, 100)
    mirror.check(0, [0])


# Bad input.


def test_bad_input_is_named_and_changes_nothing() -> None:
    shape = KvShape(2, 2, 2, 16, FP16)
    host = HostDevice.of(small(1, rows=64), Placement.BANK, link=LINK)
    keys = np.ones((2, 5, 16), dtype=np.float32)
    with pytest.raises(InputError, match="no model is set"):
        host.append(0, 0, keys, keys)
    host.set_model(shape)
    with pytest.raises(InputError, match=r"request 0 has nothing stored.*no request has any"):
        host.attend(0, [0], np.ones((1, 4, 16), dtype=np.float32))
    host.append(3, 0, keys, keys)
    before = snapshot(host)
    nan = keys.copy()
    nan[1, 2, 3] = np.nan
    with pytest.raises(InputError, match=r"values of request 3, layer 0 hold nan at \(1, 2, 3\)"):
        host.append(3, 0, keys, nan)
    with pytest.raises(InputError, match=r"keys of request 9, layer 1 hold inf at \(0, 0, 0\)"):
        host.append(9, 1, np.full_like(keys, np.inf), keys)
    with pytest.raises(InputError, match="keys of request 3, layer 0 hold 70000, which is beyond"):
        host.append(3, 0, keys * 70000, keys)
    for wrong in (keys[:1], keys[..., :8], keys[0]):
        with pytest.raises(InputError, match=r"keys have shape .*, not \(2, tokens, 16\)"):
            host.append(3, 0, wrong, keys)
    with pytest.raises(InputError, match="keys have no tokens"):
        host.append(3, 0, keys[:, :0], keys[:, :0])
    with pytest.raises(InputError, match="come with values of shape"):
        host.append(3, 0, keys, keys[:, :2])
    for layer in (2, -1):
        with pytest.raises(InputError, match=f"layer {layer} does not exist: the model has 2"):
            host.append(3, layer, keys, keys)
    queries = np.ones((1, 4, 16), dtype=np.float32)
    with pytest.raises(InputError, match="request 3 has no keys in layer 1"):
        host.attend(1, [3], queries)
    with pytest.raises(InputError, match=r"request 4 has nothing stored .requests with keys .*: 3"):
        host.attend(0, [4], queries)
    with pytest.raises(InputError, match="request 3 is given twice"):
        host.attend(0, [3, 3], np.ones((2, 4, 16), dtype=np.float32))
    with pytest.raises(InputError, match="no requests are given"):
        host.attend(0, [], queries)
    with pytest.raises(InputError, match=r"queries have shape \(1, 2, 16\), not \(1, 4, 16\)"):
        host.attend(0, [3], queries[:, :2])
    with pytest.raises(InputError, match=r"queries hold nan at \(0, 0, 0\)"):
        host.attend(0, [3], queries * np.float32(np.nan))
    with pytest.raises(InputError, match="queries hold 1e\\+06, which is beyond fp16"):
        host.attend(0, [3], queries * np.float32(1e6))
    with pytest.raises(InputError, match="request 4 has nothing stored"):
        host.free(4)
    assert snapshot(host) == before
    assert host.length(4, 0) == 0


def test_impossible_devices_are_refused() -> None:
    device = small(1)
    for name, numbers in (
        ("devices", (0, 1, 1)),
        ("stacks_per_device", (1, 0, 1)),
        ("queries_per_read", (1, 1, 0)),
    ):
        devices, stacks, per_read = numbers
        with pytest.raises(InputError, match=f"{name} = 0 must be at least 1"):
            AttaccHardware(device, Placement.BANK, devices, stacks, LINK, per_read)
    with pytest.raises(InputError, match="models no latencies"):
        HostDevice.of(DRAMS.load("hbm3-5.2-asplos24"), Placement.BANK, link=LINK)
    with pytest.raises(InputError, match=r"scale_margin = 0\.5"):
        HostDevice.of(device, Placement.BANK, link=LINK, scale_margin=0.5)
    shape = KvShape(1, 1, 1, 16, FP16)
    with pytest.raises(InputError, match="growing_keys = 65 must be from 1 to 64"):
        HostDevice.of(device, Placement.BANK, link=LINK, growing_keys=65).set_model(shape)
    host = HostDevice.of(device, Placement.BANK, link=LINK, arithmetic=Arithmetic())
    with pytest.raises(InputError, match="operands in fp16, keys and values are laid out as int8"):
        host.set_model(replace(shape, element=ElementType.INT8))
    several = HostDevice.of(device, Placement.BANK, link=LINK, queries_per_read=2)
    with pytest.raises(InputError, match="2 queries of head_dim 1024"):
        several.set_model(replace(shape, head_dim=1024, queries_per_kv_head=2))
    with pytest.raises(InputError, match="kv_heads = 0"):
        KvShape(1, 0, 1, 16, FP16)
    with pytest.raises(InputError, match="scale = -1"):
        KvShape(1, 1, 1, 16, FP16, scale=-1)


def test_the_attaccs_of_a_system() -> None:
    """Catches a table of a system that is not heeded."""
    pool = load_system("dgx-attacc-bank").attacc
    assert pool is not None
    table = pool.table.model_copy(update={"schedule": Schedule.INTERLEAVED, "dram": "hbm3-5.2"})
    host = HostDevice(replace(pool, table=table))
    assert host.hardware.stacks == pool.stacks
    assert host.hardware.placement is table.placement
    behind_barriers = pool.table.model_copy(update={"schedule": Schedule.COMPLETE})
    with pytest.raises(InputError, match="complete schedule attends to heads of one length"):
        HostDevice(replace(pool, table=behind_barriers))
    host.set_model(KvShape(1, 2, 1, 16, FP16))
    host.set_model(KvShape(2, 2, 1, 16, FP16, scale=0.5))
    mirror = Mirror(host)
    mirror.append(0, 20)
    mirror.check(1, [0])


def _devices() -> list[DramDevice]:
    """Devices whose softmax lanes do and do not divide the parts of a sequence."""
    lanes = [16, 8, 24, 5]
    changed: list[DramDevice] = []
    for each in lanes:
        device = small(1)
        assert device.pipeline is not None
        pipeline = device.pipeline.model_copy(update={"softmax_lanes": each})
        changed.append(device.model_copy(update={"pipeline": pipeline}))
    return changed


@PLACEMENTS
@pytest.mark.parametrize("device", _devices(), ids=lambda one: f"{one.pipeline.softmax_lanes}")
def test_lengths_of_a_quantum_share_their_commands(
    placement: Placement, device: DramDevice
) -> None:
    """Catches a plan rounded further than commands and their timing allow."""
    host = host_of(device, placement, KvShape(1, 1, 2, 16, FP16))
    growth, layout = host.state.groups[0].growth, host.state.groups[0].layout
    for length in (1, 2, 15, 17, 31, 33, 50, 63):
        programs = [
            interleaved_program(
                device, layout, Assignment.of(((Chunk(0, 0, keys),),)), multiply_interval=4,
                queries=2, capacities=[[64]],
            )
            for keys in (length, -(-length // growth.quantum) * growth.quantum)
        ]  # fmt: skip
        one, other = programs
        np.testing.assert_array_equal(one.kind, other.kind)
        np.testing.assert_array_equal(one.address, other.address)
        assert one.dependences is not None
        assert other.dependences is not None
        np.testing.assert_array_equal(one.dependences.waits, other.dependences.waits)
        np.testing.assert_array_equal(one.dependences.signals, other.dependences.signals)
        np.testing.assert_array_equal(one.dependences.delays, other.dependences.delays)
