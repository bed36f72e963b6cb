"""Small AttAccs, and a mirror of what a host has told them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import numpy.typing as npt

from attacc.hardware.dram import DRAMS, DramDevice
from attacc.hardware.link import LINKS
from attacc.hardware.placement import Placement
from attacc.pim.host.device import Attended, HostDevice, KvShape
from attacc.pim.host.state import LayerGroup
from attacc.pim.mapping.residence import ResidentChunk
from attacc.pim.mapping.ring import NewTokens
from attacc.pim.numerics.arithmetic import Arithmetic
from attacc.pim.program.interleaved import pipeline_of
from tests.oracle import attention as oracle

F32 = npt.NDArray[np.float32]

DEVICE = DRAMS.load("hbm3-5.2")
LINK = LINKS.load("nvlink3")


def small(channels: int, *, columns: int = 4, rows: int = 64, longest: int = 64) -> DramDevice:
    """A stack of few channels, with short rows and a small softmax buffer."""
    organization = DEVICE.organization.model_copy(
        update={"channels": channels, "columns": columns, "rows": rows}
    )
    lanes = pipeline_of(DEVICE).softmax_lanes // DEVICE.organization.channels
    pipeline = pipeline_of(DEVICE).model_copy(
        update={
            "softmax_lanes": lanes * channels,
            "softmax_buffer_bytes": 2.0 * 4 * longest * channels,
        }
    )
    return DEVICE.model_copy(update={"organization": organization, "pipeline": pipeline})


@dataclass
class Mirror:
    """A host that remembers what it has appended."""

    host: HostDevice
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    keys: dict[tuple[int, int], F32] = field(default_factory=dict)
    values: dict[tuple[int, int], F32] = field(default_factory=dict)

    @property
    def shape(self) -> KvShape:
        return self.host.shape

    def draw(self, *shape: int) -> F32:
        return self.random.standard_normal(shape).astype(np.float32)

    @property
    def layers(self) -> int:
        return self.host.state.layers

    def of_layer(self, layer: int) -> LayerGroup:
        group, _ = self.host.state.of_layers[layer]
        return group

    def append(self, request: int, tokens: int, layers: Sequence[int] | None = None) -> None:
        for layer in range(self.layers) if layers is None else layers:
            shape = self.of_layer(layer).shape
            keys = self.draw(shape.kv_heads, tokens, shape.head_dim)
            if shape.one_copy:
                new = [keys, keys[:, :, : shape.value_elements]]
                self.host.append(request, layer, keys)
            else:
                new = [keys, self.draw(shape.kv_heads, tokens, shape.value_elements)]
                self.host.append(request, layer, new[0], new[1])
            for store, one in zip((self.keys, self.values), new, strict=True):
                before = [store[request, layer]] if (request, layer) in store else []
                store[request, layer] = np.concatenate([*before, one], axis=1)

    def free(self, request: int) -> None:
        layers = self.layers
        self.host.free(request)
        for layer in range(layers):
            self.keys.pop((request, layer), None)
            self.values.pop((request, layer), None)

    def attend(
        self, layer: int, requests: Sequence[int], sinks: F32 | None = None, tokens: int = 1
    ) -> tuple[Attended, F32]:
        """What the device answers, and the (requests, tokens, heads, head_dim) queries."""
        shape = self.of_layer(layer).shape
        q = self.draw(len(requests), tokens, shape.heads, shape.head_dim)
        return self.host.attend(layer, requests, q if tokens > 1 else q[:, 0], sinks), q

    def check(
        self, layer: int, requests: Sequence[int], sinks: F32 | None = None, tokens: int = 1
    ) -> Attended:
        """Attend, and compare every bit with the oracle, told only how heads were cut."""
        attended, q = self.attend(layer, requests, sinks, tokens)
        expected = self.expected(layer, requests, q, sinks)
        assert_same_bits(attended.context, expected if tokens > 1 else expected[:, 0])
        return attended

    def chunks(self, request: int, layer: int, head: int) -> list[tuple[int, int]]:
        """First place and length of the chunks of a head."""
        length = self.host.length(request, layer)
        return [
            (chunk.start, chunk.keys(length))
            for chunk in placed(self.host, request, self.of_layer(layer).number)[head]
            if chunk.keys(length)
        ]

    def window(self, layer: int) -> int | None:
        return self.of_layer(layer).window

    def expected(
        self, layer: int, requests: Sequence[int], q: F32, sinks: F32 | None = None
    ) -> F32:
        host, group = self.host, self.of_layer(layer)
        shape = group.shape
        o = host.hardware.device.organization
        words = pipeline_of(host.hardware.device).buffer_words
        device = oracle.Device(
            host.hardware.placement.value, o.pseudo_channels, o.ranks, o.bank_groups, o.banks,
            o.access_bytes, words,
        )  # fmt: skip
        attention = oracle.Attention(
            device, numbers(host.arithmetic), shape.head_dim, shape.value_dim,
            group.layout.key_slices, one_copy=shape.one_copy,
        )  # fmt: skip
        new = NewTokens(self.window(layer), q.shape[1])
        queries = shape.queries_per_kv_head * new.count
        together = -(-queries // host.hardware.queries_per_read)
        most = -(-queries // together)
        answer = np.zeros((*q.shape[:3], shape.value_elements), dtype=np.float32)
        places = NewTokens(self.window(layer), shape.query_tokens).places
        for at, request in enumerate(requests):
            tokens = self.keys[request, layer].shape[1]
            held = min(tokens, places or tokens)
            for token, which in product(range(new.count), range(shape.heads)):
                head = which // shape.queries_per_kv_head
                answer[at, token, which] = attention.attend(
                    q[at, token, which].astype(np.float64),
                    self.keys[request, layer][head, -held:].astype(np.float64),
                    self.values[request, layer][head, -held:].astype(np.float64),
                    self.chunks(request, layer, head),
                    scale=1 / math.sqrt(shape.head_dim) if shape.scale is None else shape.scale,
                    words=words // most,
                    # Token n lies in place n mod W.
                    oldest=tokens % held if tokens > held else 0,
                    seen=new.seen(held)[token],
                    sink=None if sinks is None else float(sinks[which]),
                )
        return answer


def host_of(
    device: DramDevice,
    placement: Placement,
    shape: KvShape | Sequence[KvShape],
    *,
    devices: int = 1,
    stacks_per_device: int = 1,
    arithmetic: Arithmetic | None = None,
    queries_per_read: int = 1,
    growing_keys: int | None = None,
    scale_margin: float = 1.25,
) -> HostDevice:
    host = HostDevice.of(
        device, placement, link=LINK, devices=devices, stacks_per_device=stacks_per_device,
        arithmetic=arithmetic, queries_per_read=queries_per_read, growing_keys=growing_keys,
        scale_margin=scale_margin,
    )  # fmt: skip
    host.set_model(shape)
    return host


def placed(host: HostDevice, request: int, group: int = 0) -> list[list[ResidentChunk]]:
    """Chunks of every head of a request, in the layers of a group."""
    return host.state.requests[request].groups[group].resident.heads


def numbers(a: Arithmetic) -> oracle.Numbers:
    return oracle.Numbers(
        operand=a.operand, probability=a.probability, multiplier=a.multiplier, adder=a.adder,
        accumulator=a.accumulator, lanes=a.lanes, tree=a.tree, groups=a.groups, score=a.score,
        context=a.context, exponential=a.exponential, table_bits=a.table_bits,
        softmax_lanes=a.softmax_lanes, normalization=a.normalization, merge=a.merge,
        output=a.output, overflow=a.overflow,
    )  # fmt: skip


def assert_same_bits(ours: F32, theirs: F32) -> None:
    """NaN is NaN; everything else, zeros included, is equal bit by bit."""
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype == np.float32
    nan = np.isnan(theirs)
    np.testing.assert_array_equal(np.isnan(ours), nan)
    np.testing.assert_array_equal(
        np.where(nan, np.float32(0), ours).view(np.uint32),
        np.where(nan, np.float32(0), theirs).view(np.uint32),
    )
