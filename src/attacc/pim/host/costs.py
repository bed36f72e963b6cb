"""The model and hardware that a host describes to AttAccs, and the costs of their answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.errors import InputError
from attacc.hardware.dram import DramDevice
from attacc.hardware.link import LinkSpec
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType

F32 = npt.NDArray[np.float32]

SCALE_BYTES: Final = 4
"""Bytes of the scale of an 8-bit tensor on a link, of a maximum and of a sum: fp32."""
PARTIAL_BYTES: Final = 4
"""Bytes of an element of a part of a context that the host has to merge: fp32."""


@dataclass(frozen=True, slots=True)
class KvShape:
    """The shape of a model's keys and values, which the host gives to the device ("set model").

    Attributes:
        layers: layers of the model, each with keys and values of its own.
        kv_heads: key/value heads of a layer.
        queries_per_kv_head: query heads that share each key/value head.
        head_dim: elements of a key.
        element: type of keys and values in the banks.
        scale: factor of the scores; None for 1 / sqrt(head_dim).
        value_dim: elements of a value; None for as many as a key has.
        windows: for each layer, keys that a token sees at most, its own included, or None for all
            earlier ones; None if no layer has a window.
        one_copy: the first elements of a key serve as its value, as in a latent; values are not
            stored.
        query_tokens: new tokens of a request that attend at once at most. Each of them sees the
            keys up to its own. A window stores a key more for each token beyond the first.

    Raises:
        InputError: a size is below 1, the scale is no positive number, windows are given for
            another number of layers, or a value exceeds the key that it is part of.
    """

    layers: int
    kv_heads: int
    queries_per_kv_head: int
    head_dim: int
    element: ElementType
    scale: float | None = None
    value_dim: int | None = None
    windows: tuple[int | None, ...] | None = None
    one_copy: bool = False
    query_tokens: int = 1

    def __post_init__(self) -> None:
        for name in (
            "layers", "kv_heads", "queries_per_kv_head", "head_dim", "value_elements",
            "query_tokens",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                told = "value_dim" if name == "value_elements" else name
                raise InputError(f"{told} = {getattr(self, name)} must be at least 1")
        if self.windows is not None and len(self.windows) != self.layers:
            raise InputError(
                f"windows are given for {len(self.windows)} layers, the model has {self.layers}",
                hint="give a window, or None, for each layer",
            )
        for window in self.windows or ():
            if window is not None and window < 1:
                raise InputError(f"a window of {window} keys must have at least 1")
        if self.scale is not None and not 0 < self.scale < float("inf"):
            raise InputError(f"scale = {self.scale} must be a positive number")
        if self.one_copy and self.value_elements > self.head_dim:
            raise InputError(
                f"value_dim = {self.value_dim}: a value that is part of a key has no more than its "
                f"{self.head_dim} elements"
            )

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.kv_heads * self.queries_per_kv_head

    @property
    def value_elements(self) -> int:
        """Elements of a value."""
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def stored_elements(self) -> int:
        """Elements that are stored of each token and key/value head."""
        return self.head_dim + (0 if self.one_copy else self.value_elements)

    @property
    def layers_of_windows(self) -> dict[int | None, tuple[int, ...]]:
        """The layers of each window; None is the window of layers that see all earlier keys."""
        windows = self.windows or (None,) * self.layers
        return {
            one: tuple(layer for layer, window in enumerate(windows) if window == one)
            for one in dict.fromkeys(windows)
        }


@dataclass(frozen=True, slots=True)
class AttaccHardware:
    """AttAcc devices, and the link from the host to each of them.

    Attributes:
        device: the DRAM device of every stack.
        placement: where its units sit.
        devices: number of AttAccs; each has a link of its own.
        stacks_per_device: stacks of each AttAcc.
        link: link from the host to one AttAcc.
        queries_per_read: query heads that a read of keys and values serves at most.
        power_limited: whether multiplies keep a cadence that limits power.

    Raises:
        InputError: a number is below 1.
    """

    device: DramDevice
    placement: Placement
    devices: int
    stacks_per_device: int
    link: LinkSpec
    queries_per_read: int = 1
    power_limited: bool = True

    def __post_init__(self) -> None:
        for name in ("devices", "stacks_per_device", "queries_per_read"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)} must be at least 1")

    @property
    def stacks(self) -> int:
        """Stacks of all devices."""
        return self.devices * self.stacks_per_device


@dataclass(frozen=True, slots=True)
class LinkBytes:
    """Bytes that crossed between host and AttAccs.

    Attributes:
        queries: bytes of queries to the AttAccs, for every stack that holds a part of their head.
        keys_values: bytes of keys and values to the AttAccs, once per token that is stored.
        contexts: bytes of contexts to the host; for a head that the host merges, which is cut over
            stacks or has a sink, with the maximum and the sum of each part.
    """

    queries: int = 0
    keys_values: int = 0
    contexts: int = 0

    @property
    def inward(self) -> int:
        """Bytes to the AttAccs."""
        return self.queries + self.keys_values

    @property
    def outward(self) -> int:
        """Bytes to the host."""
        return self.contexts

    @property
    def total(self) -> int:
        """Bytes in both directions."""
        return self.inward + self.outward

    def __add__(self, other: LinkBytes) -> LinkBytes:
        """Return the sum."""
        return LinkBytes(
            self.queries + other.queries,
            self.keys_values + other.keys_values,
            self.contexts + other.contexts,
        )


@dataclass(frozen=True, slots=True)
class AppendCost:
    """The costs of appending keys and values.

    Attributes:
        link: bytes that crossed the links.
        link_ns: time on the busiest link.
        link_pj: energy of all links.
        saturated: number of elements beyond the range of their head's scale, which were clipped;
            only in 8-bit formats.
    """

    link: LinkBytes
    link_ns: float
    link_pj: float
    saturated: int = 0

    @classmethod
    def total(cls, costs: Iterable[AppendCost]) -> AppendCost:
        """Return the sum of several costs, one after the other."""
        each = list(costs)
        return cls(
            sum((one.link for one in each), LinkBytes()),
            sum(one.link_ns for one in each),
            sum(one.link_pj for one in each),
            sum(one.saturated for one in each),
        )


@dataclass(frozen=True, slots=True)
class AttendCost:
    """The costs of one attend: one layer of one step, for some requests.

    Attributes:
        cycles: cycles of the command clock until the slowest stack has ended.
        time_ns: the same duration in nanoseconds.
        link_ns: time of queries and contexts on the busiest link; not part of ``time_ns``.
        energy_pj: energy of the commands and units of all stacks, without refresh and standby.
        link_pj: energy of all links; not part of ``energy_pj``.
        link: bytes that crossed the links.
        bank_read_bytes: bytes that the units read in the banks, with padding and repeated reads.
        stacks: number of stacks that had keys to attend to.
    """

    cycles: int
    time_ns: float
    link_ns: float
    energy_pj: float
    link_pj: float
    link: LinkBytes
    bank_read_bytes: int
    stacks: int

    @classmethod
    def total(cls, costs: Iterable[AttendCost]) -> AttendCost:
        """Return the sum of several costs, one after the other, as of the layers of a step."""
        each = list(costs)
        return cls(
            sum(one.cycles for one in each),
            sum(one.time_ns for one in each),
            sum(one.link_ns for one in each),
            sum(one.energy_pj for one in each),
            sum(one.link_pj for one in each),
            sum((one.link for one in each), LinkBytes()),
            sum(one.bank_read_bytes for one in each),
            max((one.stacks for one in each), default=0),
        )


@dataclass(frozen=True, eq=False)
class Attended:
    """The device's answer to an attend.

    Attributes:
        context: (requests, heads, value elements) contexts, in the order of the call's requests;
            for several tokens (requests, tokens, heads, value elements).
        cost: costs of the call.
    """

    context: F32
    cost: AttendCost
