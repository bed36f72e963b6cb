"""Other memories that compute, beside the same eight H100 and on the same question."""

from functools import cache
from math import ceil

import pytest

from attacc.errors import DocumentError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import AttaccTable, Heads, Schedule, Softmax, load_system
from attacc.models.architecture import MODELS
from attacc.system.attaccs import Attaccs
from attacc.system.capacity import footprint, largest_batch, stores
from attacc.system.layer_attention import LayerHeads
from attacc.system.pricer import Pricer
from attacc.system.step import StepCost
from attacc.system.transfers import SOFTMAX_BYTES
from attacc.workload.requests import fixed_lengths

LLAMA = "llama-3.1-70b"
REQUESTS, KEYS = 64, 8192
KV_BYTES = REQUESTS * KEYS * 8 * 128 * 2 * 2
"""Keys and values of a layer: 8 heads of 128 elements of two bytes."""


@cache
def step(system: str, *changes: tuple[str, object]) -> StepCost:
    return Pricer(LLAMA, load_system(system, **dict(changes))).step(decode=[KEYS] * REQUESTS)


def operator_us(system: str, name: str, *changes: tuple[str, object]) -> float:
    """Time of one layer, in microseconds."""
    return next(op for op in step(system, *changes).operators if op.name == name).alone_ns / 1e3


EXPECTED = {
    # Microseconds a layer; times that keys and values are read; TB/s of all units; share of the
    # time in which rows are read: one row opens behind the multiplies of another, or columns come
    # between tRCD (and windows of four activates), tRTP and tRP.
    "8xh100-hbm-pim": (383.6, 8, 49.15, 1.0),
    "8xh100-aim": (124.5, 8, 262.1, 128 / (128 + 56 + 12 + 32)),
    "8xh100-logic-die": (24.6, 1, 106.5, 1.0),
    "8xh100-neupims": (541.8, 8, 65.54, 128 / (128 + 90 + 14 + 5 + 14)),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_attention_takes_what_units_and_rows_allow(name: str) -> None:
    """Catches a rival priced by a factor: faster than its units read, or slower than its rows open.

    Refreshes take 6 to 9 % of the time, and the way of queries, scores and contexts up to 10 % of
    the shortest one. Time within 1 % of the figure on the page (docs/model/rivals.md).
    """
    expected_us, passes, tb_per_s, share = EXPECTED[name]
    found_us = operator_us(name, "attention")
    assert found_us == pytest.approx(expected_us, rel=0.01)
    least_us = KV_BYTES * passes / tb_per_s / 1e6 / share
    assert 0.81 <= least_us / found_us <= 1


def test_rivals_in_order() -> None:
    """Catches a rival whose advantage or weakness is lost.

    Units that read once for 8 queries beat GPUs four times; HBM-PIM and NeuPIMs lose to GPUs, which
    read keys and values once and they 8 times.
    """
    times = {name: operator_us(name, "attention") for name in ("8xh100", *EXPECTED)}
    assert sorted(times, key=times.__getitem__) == [
        "8xh100-logic-die", "8xh100", "8xh100-aim", "8xh100-hbm-pim", "8xh100-neupims",
    ]  # fmt: skip
    assert times["8xh100"] / times["8xh100-logic-die"] == pytest.approx(4.1, abs=0.1)


def test_scores_cross_the_link_where_gpus_have_the_softmax() -> None:
    """Catches scores that move for free, or that wait for no bandwidth: 8 heads a GPU, 450 GB/s."""
    each = REQUESTS * 8 * KEYS * SOFTMAX_BYTES
    for name in ("qkv_transfer", "context_transfer"):
        on_gpu = operator_us("8xh100-hbm-pim", name)
        on_device = operator_us("8xh100-hbm-pim", name, ("attacc.softmax", "device"))
        assert on_gpu - on_device == pytest.approx(each / 450e9 * 1e6, rel=1e-6)
    assert AttaccTable.model_fields["softmax"].default is Softmax.DEVICE


def test_a_request_per_channel_leaves_channels_idle() -> None:
    """Catches heads that are spread over all channels: 33 requests on 32 channels a device."""
    system = load_system("8xh100-neupims")
    heads = LayerHeads.of_model(MODELS.load(LLAMA))
    attaccs = Attaccs(system)
    full, one_more = (attaccs.attend(heads, [4096] * n).time_ns[0] for n in (32, 33))
    assert one_more == pytest.approx(2 * full, rel=0.05)
    free = Attaccs(load_system("8xh100-neupims", **{"attacc.heads": "cut"}))
    assert free.attend(heads, [4096] * 33).time_ns[0] < 1.1 * full
    # Equal requests and requests of any lengths go the same way.
    curve = attaccs.curve(heads, 33, [4096])
    assert curve.at([4096]).time_ns[0] == one_more


def test_the_fullest_channel_decides_what_fits() -> None:
    """Catches memory that is pooled over channels although a request has one.

    9,216 tokens take 377 MB in a channel of 1 GiB: two requests a channel, 64 on 32 channels.
    """
    need = footprint(MODELS.load(LLAMA), fixed_lengths(8192, 1024), tensor_parallel=8)
    system = load_system("8xh100-neupims")
    stack_bytes = float(DRAMS.load("neupims-2.0").organization.stack_bytes)
    assert largest_batch(need, system, stack_bytes=stack_bytes).batch == 64
    _, stack = stores(need, system, 33, stack_bytes=stack_bytes)
    [kind] = need.stored
    assert stack.kv_bytes == 32 * 2 * need.piece_bytes(kind, 33)
    cut = load_system("8xh100-neupims", **{"attacc.heads": "cut"})
    assert largest_batch(need, cut, stack_bytes=stack_bytes).batch == pytest.approx(91, abs=1)


@pytest.mark.parametrize(("heads", "devices"), [(8, 8), (8, 5), (1, 8), (96, 8), (9, 8), (7, 3)])
def test_a_channel_has_the_least_equal_share_of_a_request(heads: int, devices: int) -> None:
    """Catches shares that leave heads over, or more shares than devices."""
    table = AttaccTable(
        devices=devices,
        stacks_per_device=1,
        placement=Placement.BANK,
        heads=Heads.REQUEST_PER_CHANNEL,
    )
    share = table.heads_of_channel(heads)
    assert share is not None
    assert heads % share == 0
    assert heads // share <= devices
    assert share >= ceil(heads / devices)
    assert not any(heads % n == 0 for n in range(ceil(heads / devices), share))


def test_requests_in_one_channel_need_the_schedule_that_deals_them() -> None:
    """Catches a placement that barriers would not keep."""
    with pytest.raises(DocumentError, match=r'attacc\.heads = "request_per_channel" needs'):
        load_system("8xh100-neupims", **{"attacc.schedule": Schedule.COMPLETE.value})
