"""AttAcc as a host sees it: set a model, append keys and values, attend, free.

AttAcc, ASPLOS 2024 (reference/attacc.md, the system): keys and values are written once and never
leave the memory. In each step queries go in, and one context per head comes out. All stacks of all
AttAccs hold heads of all requests. The bytes that cross the links are counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.errors import EngineError, InputError, member
from attacc.hardware.dram import DRAMS, DramDevice
from attacc.hardware.link import LINKS, LinkSpec
from attacc.hardware.placement import Placement
from attacc.hardware.system import AttaccPool, Schedule
from attacc.pim.energy.dram import DRAM_ENERGIES, attention_energy
from attacc.pim.host.costs import (
    SCALE_BYTES,
    AppendCost,
    AttaccHardware,
    AttendCost,
    Attended,
    KvShape,
    LinkBytes,
)
from attacc.pim.host.state import (
    CostedPlan,
    HostState,
    LayerGroup,
    PlanKey,
    StoredLayers,
    StoredRequest,
    Units,
    plan_for,
)
from attacc.pim.mapping.geometry import KeyLayout
from attacc.pim.mapping.residence import BankRows, Residence
from attacc.pim.mapping.ring import NewTokens
from attacc.pim.numerics.arithmetic import Arithmetic, kv_arithmetic
from attacc.pim.numerics.quantize import check_finite
from attacc.pim.numerics.resident import Attender, BankStore
from attacc.pim.numerics.sights import ChunkSights
from attacc.pim.program.growth import chunk_growth
from attacc.pim.program.interleaved import QueryPasses, pipeline_of, sliced
from attacc.pim.timing.tables import resolve_timing
from attacc.units import NS_PER_S

__all__ = [
    "AppendCost", "AttaccHardware", "AttendCost", "Attended", "HostDevice", "KvShape", "LinkBytes",
]  # fmt: skip

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

PLANS: Final = 16
"""Number of remembered plans."""
SCALE_MARGIN: Final = 1.25
"""Factor by which later keys and values may exceed the first ones, in 8-bit formats with scales."""


class HostDevice:
    """The AttAccs of a host, with the state of their requests.

    Args:
        hardware: the AttAccs.
        arithmetic: arithmetic of their units; by default that of the model's element type.
        growing_keys: least room of the last chunk of a head, in keys, so that it can grow; by
            default four grains, in whole rows.
        scale_margin: factor by which later keys and values may exceed the largest of the first
            ones of their request, layer and head, in 8-bit formats with scales.
    """

    def __init__(
        self,
        hardware: AttaccHardware | AttaccPool,
        arithmetic: Arithmetic | None = None,
        *,
        growing_keys: int | None = None,
        scale_margin: float = SCALE_MARGIN,
    ) -> None:
        if isinstance(hardware, AttaccPool):
            hardware = _hardware_of(hardware)
        if not isinstance(hardware, AttaccHardware):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(
                f"{hardware!r:.60} is no hardware", where="hardware", hint="use HostDevice.of(...)"
            )
        pipeline_of(hardware.device)
        if not 1 <= scale_margin < math.inf:
            raise InputError(f"scale_margin = {scale_margin} must be a number of at least 1")
        self.hardware = hardware
        self._arithmetic = arithmetic
        self._growing_keys = growing_keys
        self._scale_margin = scale_margin
        self._energies = DRAM_ENERGIES.load(hardware.device.energy)
        self._banks_per_multiply = hardware.device.banks_per_command(hardware.placement)
        self._multiply = hardware.device.rule_set.families[hardware.placement].multiply
        self._traffic = LinkBytes()
        self._saturated = 0
        self._model: HostState | None = None

    @classmethod
    def of(
        cls,
        device: DramDevice | str | Path = "hbm3-5.2",
        placement: Placement | str = Placement.BANK,
        *,
        link: LinkSpec | str | Path = "nvlink3",
        devices: int = 1,
        stacks_per_device: int = 1,
        arithmetic: Arithmetic | None = None,
        kv: str | None = None,
        accumulate: str | None = None,
        queries_per_read: int = 1,
        power_limited: bool = True,
        growing_keys: int | None = None,
        scale_margin: float = SCALE_MARGIN,
    ) -> HostDevice:
        """Return AttAccs; the arguments are those of `AttaccHardware` and of this class.

        The DRAM device and the link may be names of presets, paths, or loaded already. The
        arithmetic may be told by the names of its formats, ``kv`` and ``accumulate``
        (`kv_arithmetic`).
        """
        if kv is not None:
            arithmetic = kv_arithmetic(kv, accumulate)
        hardware = AttaccHardware(
            DRAMS.load_any(device, where="device"),
            member(Placement, placement, where="placement"),
            devices,
            stacks_per_device,
            LINKS.load_any(link, where="link"),
            queries_per_read,
            power_limited,
        )
        return cls(hardware, arithmetic, growing_keys=growing_keys, scale_margin=scale_margin)

    @property
    def shapes(self) -> tuple[KvShape, ...]:
        """The shapes of the model's keys and values, for layers one after another."""
        return self.state.shapes

    @property
    def shape(self) -> KvShape:
        """The shape of the model's keys and values, if all layers have the same.

        Raises:
            InputError: layers differ.
        """
        shape, *others = self.shapes
        if others:
            raise InputError("the layers of the model differ", hint="read shapes")
        return shape

    @property
    def arithmetic(self) -> Arithmetic:
        """Arithmetic of the units."""
        return self.state.groups[0].attender.arithmetic

    @property
    def traffic(self) -> LinkBytes:
        """Bytes that have crossed the links since the model was set."""
        return self._traffic

    @property
    def saturated(self) -> int:
        """Elements of keys and values that were clipped to their scale since the model was set."""
        return self._saturated

    @property
    def free_bytes(self) -> int:
        """Bytes of all free rows of the banks."""
        return self.state.groups[0].residence.free_bytes

    @property
    def capacity_bytes(self) -> int:
        """Bytes of the banks of all stacks."""
        return self.state.groups[0].residence.capacity_bytes

    @property
    def requests(self) -> tuple[int, ...]:
        """Requests that have keys and values."""
        return tuple(self.state.requests)

    @property
    def state(self) -> HostState:
        """The model and its stored requests, to be read and not changed.

        Raises:
            InputError: no model is set.
        """
        if self._model is None:
            raise InputError("no model is set", hint="call set_model first")
        return self._model

    def set_model(self, shape: KvShape | Sequence[KvShape]) -> None:
        """Prepare for a model; all stored requests are lost.

        Args:
            shape: of all layers, or of layers one after another, where they differ.

        Raises:
            InputError: there is no layer, layers differ in the type of their keys and values, the
                units do not compute with this type, or queries do not fit into a vector buffer.
        """
        h = self.hardware
        shapes = (shape,) if isinstance(shape, KvShape) else tuple(shape)
        elements = sorted({str(one.element) for one in shapes})
        if len(elements) != 1:
            raise InputError(
                f"layers with keys and values in {' and '.join(elements)}"
                if elements
                else "a model without layers",
                where="shape",
                hint="give the shape of each layer, with one type of keys and values",
            )
        first = 0
        rows: BankRows | None = None
        kinds: dict[KvShape, list[int]] = {}
        for one in shapes:
            for window, layers in one.layers_of_windows.items():
                alike = replace(one, layers=1, windows=(window,))
                kinds.setdefault(alike, []).extend(first + layer for layer in layers)
            first += one.layers
        groups: list[LayerGroup] = []
        for number, (one, layers) in enumerate(kinds.items()):
            group = self._group(number, one, tuple(layers), rows)
            rows = group.residence.rows_of_banks
            groups.append(group)
        assert rows is not None  # noqa: S101 - a model has layers
        self._model = HostState(shapes, rows, tuple(groups), BankStore(h.device.organization))
        self._traffic = LinkBytes()
        self._saturated = 0

    def _group(
        self, number: int, shape: KvShape, layers: tuple[int, ...], rows: BankRows | None
    ) -> LayerGroup:
        """Prepare for layers of one shape and window.

        Args:
            number: number of the group.
            shape: the shape of one of the layers.
            layers: the layers.
            rows: the rows of the banks; None for new ones.
        """
        h = self.hardware
        whole = KeyLayout(
            h.device.organization, h.placement, shape.head_dim, shape.element,
            value_dim=shape.value_dim, one_copy=shape.one_copy,
        )  # fmt: skip
        passes = max(
            (
                QueryPasses.of(shape.queries_per_kv_head * tokens, h.queries_per_read)
                for tokens in range(1, shape.query_tokens + 1)
            ),
            key=lambda one: one.most,
        )
        # One copy in slices of one access opens every row once (docs/model/heads.md).
        each_access = shape.one_copy and h.placement is Placement.BANK
        layout = sliced(
            h.device, whole, passes, key_slices=whole.columns_per_key if each_access else None
        )
        units = tuple(
            self._units(shape, layout, tokens) for tokens in range(1, shape.query_tokens + 1)
        )
        growth = chunk_growth(h.device, layout, passes, self._growing_keys)
        (window,) = shape.windows or (None,)
        ring = NewTokens(window, shape.query_tokens).places
        stored = NewTokens(ring)
        residence = Residence(
            layout, stacks=h.stacks, layers=len(layers), heads=shape.kv_heads, growth=growth,
            tokens=stored, rows=rows,
        )  # fmt: skip
        return LayerGroup(number, shape, layout, units, growth, stored, layers, residence)

    def _units(self, shape: KvShape, layout: KeyLayout, tokens: int) -> Units:
        """Return the units for steps with so many new tokens."""
        h = self.hardware
        passes = QueryPasses.of(shape.queries_per_kv_head * tokens, h.queries_per_read)
        tables = resolve_timing(
            h.device,
            h.placement,
            power_limited=h.power_limited,
            queries_per_read=passes.most,
            element_bits=shape.element.bits,
        )
        arithmetic = self._arithmetic or Arithmetic.of(shape.element)
        scale = 1 / math.sqrt(shape.head_dim) if shape.scale is None else shape.scale
        attender = Attender(h.device, layout, tables, passes, arithmetic, scale)
        # This refuses a wrong shape now rather than at the first attention.
        attender.shape  # noqa: B018
        return Units(passes, tables, attender)

    def length(self, request: int, layer: int) -> int:
        """Return the keys that a layer of a request holds; 0 for an unknown request.

        Raises:
            InputError: there is no such layer.
        """
        model = self.state
        self._check_layer(layer)
        stored = model.requests.get(request)
        group, _ = model.of_layers[layer]
        tokens = 0 if stored is None else int(stored.tokens[layer])
        return group.tokens.held(tokens) if tokens else 0

    def append(self, request: int, layer: int, keys: F32, values: F32 | None = None) -> AppendCost:
        """Append keys and values of one layer to a request; the first append opens the request.

        A layer with a window holds the keys of its newest tokens, and overwrites the oldest. Of
        more tokens than its window has, only the last are sent.

        In 8-bit formats, the first append to a request and layer fixes the scale of each head's
        keys and the scale of its values.

        Args:
            request: number of the request, chosen by the host.
            layer: number of the layer.
            keys: (kv_heads, tokens, head_dim); they already carry their positions.
            values: (kv_heads, tokens, value elements); None where they are part of the keys.

        Raises:
            InputError: there is no such layer, a shape is wrong, values are missing or not the
                first elements of the keys that they are part of, or a value is not finite or beyond
                the format. Nothing is changed.
            CapacityError: there is no room. Nothing is changed.
        """
        model = self.state
        self._check_layer(layer)
        group, number = model.of_layers[layer]
        shape = group.shape
        of_keys = _tensor(keys, "keys", shape.kv_heads, shape.head_dim)
        of_values = _values_of(shape, of_keys, values)
        given = of_keys.shape[1]
        kept = min(given, group.tokens.places or given)
        if kept < given:
            of_keys, of_values = (
                np.ascontiguousarray(one[:, given - kept :]) for one in (of_keys, of_values)
            )
        stored = model.requests.get(request)
        before = 0 if stored is None else int(stored.tokens[layer])
        attender, layout = group.attender, group.layout
        if stored is None or before == 0:
            key_scales = attender.scales(of_keys, self._scale_margin)
            value_scales = (
                key_scales if shape.one_copy else attender.scales(of_values, self._scale_margin)
            )
        else:
            key_scales, value_scales = stored.key_scales[layer], stored.value_scales[layer]
        where = f"of request {request}, layer {layer}"
        key_codes, cut = attender.encode(
            of_keys, key_scales, layout.padded_key, name=f"keys {where}"
        )
        value_codes, more = key_codes[:, :, :0], 0
        if not shape.one_copy:
            value_codes, more = attender.encode(
                of_values, value_scales, layout.padded_value, name=f"values {where}"
            )

        known = None if stored is None else stored.groups.get(group.number)
        grown = group.residence.grow(
            None if known is None else known.resident, before + given, name=f"request {request}"
        )
        if stored is None:
            stored = model.requests[request] = model.opened()
        held = stored.groups.setdefault(group.number, StoredLayers(grown))
        if held.version != grown.version:
            held.keep(model.store, attender, len(group.layers), self.hardware.stacks_per_device)
        places = held.places
        if places is None:
            raise EngineError(f"request {request} has no places to write to")
        if before == 0:
            stored.key_scales[layer], stored.value_scales[layer] = key_scales, value_scales
        runs = group.runs(before + given - kept, kept)
        for place, begin, end in runs:
            of_run = (np.ascontiguousarray(one[:, begin:end]) for one in (key_codes, value_codes))
            places.write(model.store, number, place, layout.element.bits, *of_run)
        stored.tokens[layer] = before + given
        self._saturated += cut + more
        return self._appended(group, held, runs, kept, opening=before == 0, saturated=cut + more)

    def _appended(
        self,
        group: LayerGroup,
        held: StoredLayers,
        runs: Sequence[tuple[int, int, int]],
        tokens: int,
        *,
        opening: bool,
        saturated: int,
    ) -> AppendCost:
        """Count the bytes of tokens that were written, and return their costs."""
        shape, h = group.shape, self.hardware
        bits = group.layout.element.bits
        per_head = tokens * shape.stored_elements * bits // 8
        if bits == 8 and opening:
            per_head += (1 if shape.one_copy else 2) * SCALE_BYTES
        link = LinkBytes(keys_values=per_head * shape.kv_heads)
        self._traffic += link
        busiest = held.busiest_share(runs, h.devices) * link.total
        return AppendCost(
            link,
            busiest / h.link.bytes_per_s * NS_PER_S,
            link.total * h.link.energy_pj_per_byte,
            saturated,
        )

    def attend(
        self, layer: int, requests: Sequence[int], queries: F32, sinks: F32 | None = None
    ) -> Attended:
        """Attend with the queries of one step and layer to all stored keys of some requests.

        The host merges heads that have sinks: stacks send each of their contexts in fp32, with its
        greatest score and its sum of exponentials.

        Args:
            layer: number of the layer.
            requests: the requests, each once.
            queries: (requests, heads, head_dim); heads that share a key/value head are neighbours.
                Several of the newest tokens attend at once with (requests, tokens, heads,
                head_dim), each to the keys up to its own.
            sinks: (heads,) a score beside those of the keys of each query head, with the scale of
                scores applied already. It counts in the sum of the softmax, and has no value. None
                for no sinks.

        Raises:
            InputError: there is no such layer or request, a request has no keys in this layer, a
                shape is wrong, a query is not finite or beyond the format, or a sink is not finite.
        """
        model = self.state
        self._check_layer(layer)
        group, number = model.of_layers[layer]
        shape = group.shape
        asked = self._asked(requests, layer)
        q, tokens = _queries_of(shape, queries, len(asked))
        units = group.units[tokens - 1]
        beside = None if sinks is None else _sinks_of(shape, sinks, len(asked), tokens)
        for request, stored in zip(requests, asked, strict=True):
            if stored.tokens[layer] < tokens:
                raise InputError(
                    f"{tokens} tokens of request {request} attend, and {stored.tokens[layer]} are "
                    f"stored in layer {layer}",
                    hint="append the new tokens first",
                )
        lengths = [group.tokens.held(int(stored.tokens[layer])) for stored in asked]
        oldest = [group.tokens.oldest(int(stored.tokens[layer])) for stored in asked]
        plan = self._plan(asked, group, tokens, lengths, oldest, merged=beside is not None)
        cost = plan.cost
        if cost is None or (plan.lengths, plan.oldest) != (lengths, oldest):
            cost = self._fill(group, plan, tokens, lengths, oldest)
        assert plan.sights is not None  # noqa: S101 - filled in
        if len(asked) == 1:
            key_scales, value_scales = asked[0].key_scales[layer], asked[0].value_scales[layer]
        else:
            key_scales = np.concatenate([stored.key_scales[layer] for stored in asked])
            value_scales = np.concatenate([stored.value_scales[layer] for stored in asked])
        owners = len(asked) * shape.kv_heads
        context = units.attender.attend(
            plan.plan,
            plan.chunk_lengths,
            plan.sights,
            plan.rows[number],
            model.store,
            q.reshape(owners, units.passes.queries, shape.head_dim),
            key_scales,
            value_scales,
            beside,
        )
        self._traffic += cost.link
        by_token = context.reshape(
            len(asked), shape.kv_heads, tokens, shape.queries_per_kv_head, shape.value_elements
        ).swapaxes(1, 2)
        answer = by_token.reshape(*np.shape(queries)[:-1], shape.value_elements)
        return Attended(answer, cost)

    def free(self, request: int) -> None:
        """Forget a request, and free its rows.

        Raises:
            InputError: there is no such request.
        """
        model = self.state
        stored = model.requests.get(request)
        if stored is None:
            raise InputError(f"request {request} has nothing stored", hint=_held(model))
        del model.requests[request]
        for number, held in stored.groups.items():
            model.groups[number].residence.free(held.resident)
            for chunk in held.chunks:
                model.store.give(chunk.kept)
        for key in [key for key in model.plans if stored.serial in key.serials]:
            del model.plans[key]

    def _check_layer(self, layer: int) -> None:
        layers = self.state.layers
        if not 0 <= layer < layers:
            raise InputError(f"layer {layer} does not exist: the model has {layers}")

    def _asked(self, requests: Sequence[int], layer: int) -> list[StoredRequest]:
        model = self.state
        if not len(requests):
            raise InputError("no requests are given to attend to", where="requests")
        if len(set(requests)) < len(requests):
            twice = next(one for one in requests if list(requests).count(one) > 1)
            raise InputError(
                f"request {twice} is given twice", hint="attend to it in one call after the other"
            )
        asked: list[StoredRequest] = []
        for request in requests:
            stored = model.requests.get(request)
            if stored is None:
                raise InputError(f"request {request} has nothing stored", hint=_held(model))
            if not stored.tokens[layer]:
                raise InputError(
                    f"request {request} has no keys in layer {layer}",
                    hint="append keys and values of this layer first",
                )
            asked.append(stored)
        return asked

    def _plan(
        self,
        asked: Sequence[StoredRequest],
        group: LayerGroup,
        tokens: int,
        lengths: Sequence[int],
        oldest: Sequence[int],
        *,
        merged: bool,
    ) -> CostedPlan:
        """Return the plan of the stacks; lengths that fill the same columns share one."""
        model = self.state
        quantum, parts = group.growth.quantum, group.layout.sequence_parts
        held = [stored.groups[group.number] for stored in asked]
        key = PlanKey(
            group.number,
            tokens,
            merged,
            tuple(-(-length // quantum) for length in lengths),
            tuple(stored.serial for stored in asked),
            tuple(one.version for one in held),
            tuple(
                one.turns(place, length, parts)
                for one, place, length in zip(held, oldest, lengths, strict=True)
            ),
        )
        plan = model.plans.get(key)
        if plan is None:
            plan = plan_for(model, self.hardware, asked, key)
            model.plans[key] = plan
            if len(model.plans) > PLANS:
                model.plans.popitem(last=False)
        else:
            model.plans.move_to_end(key)
        return plan

    def _fill(
        self,
        group: LayerGroup,
        plan: CostedPlan,
        tokens: int,
        lengths: list[int],
        oldest: list[int],
    ) -> AttendCost:
        """Set the true lengths of a plan's requests, and return its costs."""
        h, shape, passes = self.hardware, group.shape, group.units[tokens - 1].passes
        starts, capacities = plan.plan.starts, plan.plan.capacities
        of_request = np.array(lengths, dtype=np.int64)[plan.plan.owners // shape.kv_heads]
        plan.chunk_lengths = np.minimum(of_request - starts, capacities)
        plan.lengths, plan.oldest = lengths, oldest
        plan.sights = ChunkSights.of(
            plan.plan.owners,
            starts,
            heads=shape.kv_heads,
            held=lengths,
            oldest=oldest,
            tokens=NewTokens(group.window, tokens),
            group=shape.queries_per_kv_head,
        )
        energy = attention_energy(
            plan.run,
            group.layout,
            sum(lengths) * shape.heads * tokens,
            self._energies,
            banks_per_multiply=self._banks_per_multiply,
            queries_per_read=passes.queries / passes.passes,
        )
        multiplies = plan.run.count(self._multiply)
        access = group.layout.organization.access_bytes
        plan.cost = AttendCost(
            cycles=plan.run.cycles,
            time_ns=plan.run.time_ns,
            link_ns=plan.busiest_bytes / h.link.bytes_per_s * NS_PER_S,
            energy_pj=energy.total_pj,
            link_pj=plan.link.total * h.link.energy_pj_per_byte,
            link=plan.link,
            bank_read_bytes=multiplies * self._banks_per_multiply * access,
            stacks=plan.stacks,
        )
        return plan.cost


def _tensor(tensor: F32, name: str, heads: int, elements: int) -> F32:
    result = np.ascontiguousarray(tensor, dtype=np.float32)
    if result.ndim != 3 or result.shape[::2] != (heads, elements):
        raise InputError(f"{name} have shape {tensor.shape}, not ({heads}, tokens, {elements})")
    if not result.shape[1]:
        raise InputError(f"{name} have no tokens")
    return result


def _values_of(shape: KvShape, keys: F32, values: F32 | None) -> F32:
    """Return the values of new tokens, which may be part of their keys.

    Raises:
        InputError: a shape is wrong, values are missing, or they are not the first elements of the
            keys that they are part of.
    """
    part = keys[:, :, : shape.value_elements]
    if values is None:
        if not shape.one_copy:
            raise InputError("keys come without values", hint="give values, too")
        return part
    given = _tensor(values, "values", shape.kv_heads, shape.value_elements)
    if keys.shape[1] != given.shape[1]:
        raise InputError(f"keys of shape {keys.shape} come with values of shape {values.shape}")
    if shape.one_copy and not np.array_equal(given, part):
        raise InputError(
            "the values of a head are not the first elements of its keys",
            hint="give no values, or set a model with one_copy=False",
        )
    return given


def _queries_of(shape: KvShape, queries: F32, requests: int) -> tuple[F32, int]:
    """Return (requests, kv_heads, tokens, queries of a token, head_dim) queries, and the tokens.

    Raises:
        InputError: a shape is wrong, or more tokens attend at once than the model was set for.
    """
    q = np.ascontiguousarray(queries, dtype=np.float32)
    expected = (requests, shape.heads, shape.head_dim)
    tokens = q.shape[1] if q.ndim == 4 else 1
    if (*q.shape[:1], *q.shape[-2:]) != expected or q.ndim not in (3, 4) or not tokens:
        raise InputError(f"queries have shape {queries.shape}, not {expected}")
    if tokens > shape.query_tokens:
        raise InputError(
            f"{tokens} tokens attend at once, the model was set for {shape.query_tokens}",
            where="queries",
            hint="set the model with more query_tokens",
        )
    split = q.reshape(requests, tokens, shape.kv_heads, shape.queries_per_kv_head, shape.head_dim)
    return np.ascontiguousarray(split.swapaxes(1, 2)), tokens


def _sinks_of(shape: KvShape, sinks: F32, requests: int, tokens: int) -> F32:
    """Return (owners, queries) sinks."""
    each = np.ascontiguousarray(sinks, dtype=np.float32)
    if each.shape != (shape.heads,):
        raise InputError(f"sinks have shape {np.shape(sinks)}, not ({shape.heads},)")
    check_finite(each, "sinks")
    by_owner = each.reshape(shape.kv_heads, shape.queries_per_kv_head)
    return np.ascontiguousarray(np.tile(by_owner, (requests, tokens)))


def _held(model: HostState) -> str:
    """Return a text that names the stored requests, for messages."""
    held = sorted(model.requests)
    if not held:
        return "append keys and values first: no request has any"
    some = ", ".join(map(str, held[:8]))
    return f"requests with keys and values: {some}{', ...' if len(held) > 8 else ''}"


def _hardware_of(pool: AttaccPool) -> AttaccHardware:
    """Return the AttAccs of a system."""
    table = pool.table
    if table.schedule is not Schedule.INTERLEAVED:
        raise InputError(
            f"the {table.schedule} schedule attends to heads of one length",
            where="attacc.schedule",
            hint=f'use "{Schedule.INTERLEAVED}"',
        )
    return AttaccHardware(
        DRAMS.load_name_or_file(table.dram, where="attacc.dram"),
        table.placement,
        table.devices,
        table.stacks_per_device,
        pool.link,
        table.queries_per_read,
        table.power_limited,
    )
