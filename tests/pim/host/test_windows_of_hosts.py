"""The device as a host sees it, with windows, values of another size, cut keys and sinks."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attacc.errors import CapacityError, InputError
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.host.device import KvShape, LinkBytes
from attacc.pim.numerics.arithmetic import Arithmetic, Normalization
from attacc.pim.numerics.formats import Format
from tests import share
from tests.pim.host.cases import DEVICE, F32, Mirror, assert_same_bits, host_of, placed, small

FP16 = ElementType.FP16
PLACEMENTS = pytest.mark.parametrize("placement", list(Placement))
ARITHMETICS = st.sampled_from(
    [
        Arithmetic(),
        Arithmetic(multiplier=Format.FP32, adder=Format.FP32, accumulator=Format.FP32),
        Arithmetic(normalization=Normalization.AFTER),
    ]
)


@PLACEMENTS
@given(data=st.data())
@settings(max_examples=share.examples(__name__, 20, 8))
def test_any_session_gives_the_bits_of_the_oracle(
    placement: Placement, data: st.DataObject
) -> None:
    """Catches a token that overwrites another than the oldest, a ring read from a wrong place, rows
    of one window's layers in another's, values with the size of keys, slices of keys that are
    mixed up, and a sink that counts for another head or not at all."""
    group = data.draw(st.integers(1, 3), label="queries per head")
    windows = data.draw(
        st.lists(st.sampled_from([None, 1, 5, 33, 64, 100]), min_size=1, max_size=3),
        label="windows",
    )
    shape = KvShape(
        len(windows), data.draw(st.integers(1, 2), label="heads"), group,
        data.draw(st.sampled_from([8, 24, 576]), label="head_dim"), FP16,
        value_dim=data.draw(st.sampled_from([None, 16, 72]), label="value_dim"),
        windows=tuple(windows),
    )  # fmt: skip
    host = host_of(
        small(data.draw(st.integers(1, 2), label="channels"), rows=8192), placement, shape,
        stacks_per_device=data.draw(st.integers(1, 2), label="stacks"),
        arithmetic=data.draw(ARITHMETICS, label="arithmetic"),
        growing_keys=data.draw(st.integers(1, 16), label="growing"),
    )  # fmt: skip
    mirror = Mirror(host)
    everything = host.free_bytes
    for _ in range(data.draw(st.integers(2, 5), label="steps")):
        request = data.draw(st.integers(0, 1), label="request")
        tokens = data.draw(st.sampled_from([1, 1, 2, 17, 40, 150]), label="tokens")
        some = data.draw(st.booleans(), label="one layer only")
        mirror.append(request, tokens, [0] if some else None)
    sinks = mirror.draw(shape.heads) * 3 if data.draw(st.booleans(), label="sinks") else None
    for layer in range(shape.layers):
        there = [one for one in host.requests if host.length(one, layer)]
        if there:
            mirror.check(layer, data.draw(st.permutations(there), label="asked"), sinks)
    for request in host.requests:
        host.free(request)
    assert host.free_bytes == everything


@PLACEMENTS
@given(data=st.data())
@settings(max_examples=12)
def test_layers_of_any_shapes_give_the_bits_of_the_oracle(
    placement: Placement, data: st.DataObject
) -> None:
    """Catches a layer that is read with the layout, the scale or the passes of another, values
    that are read from other rows than the keys they are part of, and rows that two layers get."""
    shapes: list[KvShape] = []
    for _ in range(data.draw(st.integers(1, 3), label="kinds")):
        one_copy = data.draw(st.booleans(), label="one copy")
        value_dim = data.draw(st.sampled_from([None, 8, 24]), label="value_dim")
        layers = data.draw(st.integers(1, 2), label="layers")
        window = data.draw(st.sampled_from([None, 33]), label="window")
        shapes.append(
            KvShape(
                layers, data.draw(st.integers(1, 2), label="heads"),
                data.draw(st.integers(1, 3), label="queries per head"),
                data.draw(st.sampled_from([24, 40, 576]), label="head_dim"), FP16,
                value_dim=value_dim, windows=(window,) * layers, one_copy=one_copy,
                scale=data.draw(st.sampled_from([None, 0.25]), label="scale"),
            )
        )  # fmt: skip
    host = host_of(
        small(data.draw(st.integers(1, 2), label="channels"), columns=8, rows=8192), placement,
        shapes,
        stacks_per_device=data.draw(st.integers(1, 2), label="stacks"),
        arithmetic=data.draw(ARITHMETICS, label="arithmetic"),
        # Two queries of 576 elements exceed half a vector buffer, unless they are cut.
        queries_per_read=data.draw(st.integers(1, 2), label="queries per read")
        if all(shape.head_dim < 576 for shape in shapes)
        else 1,
        growing_keys=data.draw(st.integers(1, 16), label="growing"),
    )  # fmt: skip
    mirror = Mirror(host)
    everything = host.free_bytes
    for _ in range(data.draw(st.integers(2, 4), label="steps")):
        tokens = data.draw(st.sampled_from([1, 2, 17, 40, 150]), label="tokens")
        mirror.append(data.draw(st.integers(0, 1), label="request"), tokens)
    for layer in range(mirror.layers):
        mirror.check(layer, data.draw(st.permutations(host.requests), label="asked"))
    for request in host.requests:
        host.free(request)
    assert host.free_bytes == everything


@PLACEMENTS
@given(data=st.data())
@settings(max_examples=15)
def test_new_tokens_see_the_keys_up_to_their_own(placement: Placement, data: st.DataObject) -> None:
    """Catches a token that sees a later one, or behind its window; queries of another token or
    head; a ring in which a new token overwrites what an earlier one sees; and what tokens saw of a
    shorter request."""
    most = data.draw(st.integers(2, 4), label="tokens at once")
    windows = data.draw(
        st.lists(st.sampled_from([None, 1, 5, 40]), min_size=1, max_size=2), label="windows"
    )
    shape = KvShape(
        len(windows), data.draw(st.integers(1, 2), label="heads"),
        data.draw(st.integers(1, 3), label="queries per head"), 24, FP16,
        value_dim=data.draw(st.sampled_from([None, 16]), label="value_dim"),
        windows=tuple(windows), query_tokens=most,
        one_copy=data.draw(st.booleans(), label="one copy"),
    )  # fmt: skip
    host = host_of(
        small(data.draw(st.integers(1, 2), label="channels"), columns=8, rows=8192), placement,
        shape, arithmetic=data.draw(ARITHMETICS, label="arithmetic"),
        queries_per_read=data.draw(st.integers(1, 3), label="queries per read"),
        growing_keys=data.draw(st.integers(1, 16), label="growing"),
    )  # fmt: skip
    mirror = Mirror(host)
    sinks = mirror.draw(shape.heads) * 3 if data.draw(st.booleans(), label="sinks") else None
    for request in range(data.draw(st.integers(1, 2), label="requests")):
        mirror.append(request, data.draw(st.sampled_from([1, 20, 61, 100]), label="prompt"))
    for _ in range(3):
        tokens = data.draw(st.integers(1, most), label="new")
        for request in host.requests:
            mirror.append(request, tokens)
        for layer in range(mirror.layers):
            mirror.check(layer, host.requests, sinks, tokens)


def test_tokens_at_once_share_reads() -> None:
    """Catches reads, bytes or energy of one token for several, and several tokens that are refused
    where fewer were agreed on, or stored."""
    shape = KvShape(1, 2, 2, 64, FP16, query_tokens=3)
    host = host_of(DEVICE, Placement.BANK, shape, queries_per_read=6)
    mirror = Mirror(host)
    mirror.append(0, 1024)
    one, three = mirror.check(0, [0]).cost, mirror.check(0, [0], None, 3).cost
    assert three.bank_read_bytes == one.bank_read_bytes
    assert three.link == LinkBytes(queries=3 * one.link.queries, contexts=3 * one.link.contexts)
    assert one.energy_pj < three.energy_pj < 3 * one.energy_pj
    assert one.cycles < three.cycles
    with pytest.raises(InputError, match="4 tokens attend at once, the model was set for 3"):
        mirror.attend(0, [0], None, 4)
    mirror.append(1, 2)
    with pytest.raises(InputError, match="3 tokens of request 1 attend, and 2 are stored"):
        mirror.attend(0, [1], None, 3)
    with pytest.raises(InputError, match="queries have shape"):
        host.attend(0, [0], mirror.draw(1, 0, 4, 64))


@pytest.mark.parametrize("element", [FP16, ElementType.INT8])
def test_one_copy_is_sent_and_stored_once(element: ElementType) -> None:
    """Catches values that are sent, or get rows or a scale, beside the keys they are part of."""
    one = KvShape(1, 1, 4, 576, element, value_dim=512, one_copy=True)
    hosts = [
        host_of(DEVICE, Placement.BANK, shape) for shape in (one, replace(one, one_copy=False))
    ]
    keys = np.random.default_rng(1).standard_normal((1, 300, 576)).astype(np.float32)
    values = keys[:, :, :512]
    costs = [hosts[0].append(0, 0, keys), hosts[1].append(0, 0, keys, values)]
    scales = (4, 8) if element is ElementType.INT8 else (0, 0)
    sizes = [cost.link.total for cost in costs]
    assert sizes == [300 * n * element.bytes + s for n, s in zip((576, 1088), scales, strict=True)]
    rows = [sum(chunk.rows.size for chunk in placed(host, 0)[0]) for host in hosts]
    assert rows[0] < 0.6 * rows[1]
    again = hosts[0].append(1, 0, keys, values)
    assert again == costs[0]
    with pytest.raises(InputError, match="not the first elements of its keys"):
        hosts[0].append(1, 0, keys, values + 1)
    with pytest.raises(InputError, match="keys come without values"):
        hosts[1].append(1, 0, keys)
    with pytest.raises(InputError, match="no more than its 576 elements"):
        replace(one, value_dim=577)


def test_models_without_one_kind_of_keys_are_refused() -> None:
    """Catches layers whose keys are read as another type, and a model without layers."""
    shape = KvShape(1, 1, 1, 16, FP16)
    for shapes, message in (
        ([], "a model without layers"),
        ([shape, replace(shape, element=ElementType.INT8)], "in fp16 and int8"),
    ):
        with pytest.raises(InputError, match=message):
            host_of(DEVICE, Placement.BANK, shapes)


@PLACEMENTS
def test_a_full_ring_goes_round(placement: Placement) -> None:
    """Catches a plan of another oldest key that is used again, and a ring that grows."""
    shape = KvShape(2, 2, 2, 16, FP16, windows=(40, None))
    host = host_of(small(2, rows=512), placement, shape, queries_per_read=2)
    mirror = Mirror(host)
    mirror.append(3, 39)
    mirror.append(3, 1)
    full = sum(chunk.rows.size for chunks in placed(host, 3) for chunk in chunks)
    for _ in range(45):
        mirror.append(3, 1)
        mirror.check(0, [3])
        assert host.length(3, 0) == 40
    assert sum(chunk.rows.size for chunks in placed(host, 3) for chunk in chunks) == full
    assert host.length(3, 1) == 85
    mirror.check(1, [3])


@PLACEMENTS
@pytest.mark.parametrize("element", [ElementType.INT8, ElementType.FP8])
def test_rings_of_eight_bits_keep_the_scale_of_the_first_tokens(
    placement: Placement, element: ElementType
) -> None:
    """Catches a scale that follows the window, or bytes of a ring written with the size of keys."""
    shape = KvShape(1, 2, 2, 24, element, value_dim=40, windows=(20,))
    mirror = Mirror(host_of(small(2, rows=512), placement, shape, scale_margin=1))
    plain = mirror.draw

    def largest_last(*sizes: int) -> F32:
        drawn = np.clip(plain(*sizes), -1, 1)
        drawn[:, -1, 0] = 4
        return drawn

    # The largest number of all is in the last token of the prompt, which stays in the ring.
    mirror.draw = largest_last  # type: ignore[method-assign]
    mirror.append(5, 31)
    mirror.draw = lambda *sizes: np.clip(plain(*sizes), -1, 1)  # type: ignore[method-assign]
    for _ in range(7):
        mirror.append(5, 1)
    mirror.check(0, [5])
    assert mirror.host.saturated == 0


def test_layers_of_all_windows_share_the_rows() -> None:
    """Catches a row that is handed out to layers of two windows, and memory that is counted once
    for each window."""
    shape = KvShape(3, 2, 1, 16, FP16, windows=(40, None, 8))
    host = host_of(small(1, rows=64), Placement.BANK, shape)
    mirror, row = Mirror(host), 4 * 32 * 64
    mirror.append(0, 60)
    mirror.append(1, 20)
    rows = [
        int(one)
        for request in (0, 1)
        for group in range(3)
        for chunks in placed(host, request, group)
        for chunk in chunks
        for one in chunk.rows.flat
    ]
    assert len(rows) == len(set(rows))
    assert host.free_bytes == host.capacity_bytes - len(rows) * row
    with pytest.raises(CapacityError, match=r"keys and values of request 2 .2 heads, 1 layers"):
        mirror.append(2, 2000, [1])
    mirror.free(0)
    mirror.check(1, [1])
    mirror.free(1)
    assert host.free_bytes == host.capacity_bytes


def test_a_full_ring_costs_no_more_than_its_window() -> None:
    """Catches reads, scores and bytes that go on growing behind a window, or a prompt of which
    tokens are sent that no later token sees."""
    shape = KvShape(2, 2, 2, 64, FP16, windows=(256, None))
    host = host_of(DEVICE, Placement.BANK, shape)
    plain = host_of(DEVICE, Placement.BANK, replace(shape, windows=None))
    ringed, whole = Mirror(host), Mirror(plain)
    # The oldest key is in the first place: the ring is read as a context of 256 keys.
    for layer, tokens in ((0, 256), (1, 1024)):
        appended = host.append(0, layer, *ringed.draw(2, 2, 1024, 64))
        assert appended.link.keys_values == 2 * 2 * tokens * 64 * 2
    whole.append(0, 256)
    assert ringed.attend(0, [0])[0].cost == whole.attend(0, [0])[0].cost
    assert (
        ringed.attend(1, [0])[0].cost.bank_read_bytes
        > 3 * ringed.attend(0, [0])[0].cost.bank_read_bytes
    )


def test_values_of_another_size_on_the_link() -> None:
    """Catches values, or contexts, that are counted with the size of keys."""
    shape = KvShape(1, 3, 4, 192, FP16, value_dim=128)
    host = host_of(small(2, rows=512), Placement.BANK, shape)
    mirror = Mirror(host)
    appended = host.append(1, 0, mirror.draw(3, 10, 192), mirror.draw(3, 10, 128))
    assert appended.link == LinkBytes(keys_values=3 * 10 * (192 + 128) * 2)
    attended = mirror.attend(0, [1])[0]
    assert attended.context.shape == (1, 12, 128)
    assert attended.cost.link == LinkBytes(queries=12 * 192 * 2, contexts=12 * 128 * 2)


def test_sinks_on_the_link_and_in_the_sum() -> None:
    """Catches a sink that the softmax of one chunk leaves out, and a merge that costs nothing: the
    host needs the context in fp32, with a maximum and a sum."""
    shape = KvShape(1, 2, 2, 16, FP16)
    host = host_of(small(2, rows=512), Placement.BANK, shape)
    mirror = Mirror(host)
    mirror.append(0, 30)
    q = mirror.draw(1, 4, 16)
    none, low, high = (
        host.attend(0, [0], q, sinks)
        for sinks in (None, np.full(4, -100, dtype=np.float32), np.full(4, 100, dtype=np.float32))
    )
    assert none.cost.link == LinkBytes(queries=4 * 32, contexts=4 * 32)
    assert low.cost.link == LinkBytes(queries=4 * 32, contexts=4 * (16 * 4 + 2 * 4))
    assert low.cost.cycles == none.cost.cycles
    assert_same_bits(low.context, none.context)
    assert not high.context.any()


def contexts_after(host_windows: tuple[int | None, ...], tokens: int) -> F32:
    mirror = Mirror(
        host_of(
            small(1, rows=512), Placement.BANK, KvShape(1, 1, 1, 16, FP16, windows=host_windows)
        )
    )
    mirror.append(0, tokens)
    return mirror.attend(0, [0])[0].context


def test_a_window_that_is_not_reached_changes_nothing() -> None:
    """Catches a ring whose chunks lie elsewhere than those of a plain head."""
    assert_same_bits(contexts_after((50,), 50), contexts_after((None,), 50))
    assert not np.array_equal(contexts_after((49,), 50), contexts_after((None,), 50))


def test_bad_input_is_named() -> None:
    shape = KvShape(2, 1, 2, 16, FP16, value_dim=8)
    with pytest.raises(InputError, match="windows are given for 1 layers, the model has 2"):
        replace(shape, windows=(4,))
    with pytest.raises(InputError, match="a window of 0 keys must have at least 1"):
        replace(shape, windows=(4, 0))
    with pytest.raises(InputError, match="value_dim = 0 must be at least 1"):
        replace(shape, value_dim=0)
    host = host_of(small(1), Placement.BANK, shape)
    mirror = Mirror(host)
    with pytest.raises(InputError, match=r"values have shape \(1, 3, 16\), not \(1, tokens, 8\)"):
        host.append(0, 0, mirror.draw(1, 3, 16), mirror.draw(1, 3, 16))
    mirror.append(0, 3)
    q = mirror.draw(1, 2, 16)
    with pytest.raises(InputError, match=r"sinks have shape \(3,\), not \(2,\)"):
        host.attend(0, [0], q, mirror.draw(3))
    with pytest.raises(InputError, match=r"sinks hold inf at \(1,\)"):
        host.attend(0, [0], q, np.array([0, np.inf], dtype=np.float32))
