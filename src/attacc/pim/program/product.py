"""The program of a matrix product on one stack: activations times weights, row by row.

Weights lie in the banks like the keys of a head (`attacc.pim.mapping.geometry`). Each column of the
matrix is a "key" whose dimension is the product's inner dimension, and each row of the activations
is a "query". The program is the score half of attention, without softmax or context. The stack's
columns and inner dimension are dealt out to its channels as a grid (`ProductLayout`). A channel's
part of the inner dimension is cut into *segments*, each of which fits half a vector buffer. The
buffer die adds up the partial sums of segments and of the channels that share columns. As with cut
heads, adding takes no time.

A segment is multiplied with all rows of the activations before the next segment begins. Where the
weights of a segment lie in one DRAM row, that row stays open for all rows of the activations. In
attention a key serves a single query.

For each segment, and each set of rows that a read of the weights serves, there is a *phase*. Its
activations fill one half of the vector buffers while the multiplies of the phase before read the
other half. Its *units*, 16 columns of each part, fill the accumulators in turn, and then their sums
move. Steps wait for each other as in the interleaved schedule (`attacc.pim.program.interleaved`). A
few phases also wait so that a refresh that is due can close the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.errors import InputError
from attacc.hardware.dram import DramDevice, Organization
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.mapping.geometry import HeadLayout, HeadRegions, rows_of
from attacc.pim.program.interleaved import QueryPasses, pipeline_of
from attacc.pim.program.program import MULTIPLY, Dependences, Kind, Program
from attacc.pim.program.schedule import head_commands

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

PAUSES_PER_REFRESH: Final = 2
"""How often multiplies leave room for a precharge between one refresh and the next."""


@dataclass(frozen=True, slots=True)
class ProductShape:
    """A product of activations with weights, as far as one stack computes it.

    Attributes:
        rows: rows of the activations.
        inner: inner dimension, which is the number of rows of the weights.
        columns: columns of the weights on this stack.
        element: element type of the weights.
    """

    rows: int
    inner: int
    columns: int
    element: ElementType

    def __post_init__(self) -> None:
        for name in ("rows", "inner", "columns"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)} must be at least 1")


@dataclass(frozen=True)
class ProductLayout:
    """How a product's weights lie in the channels of a stack.

    Every channel is laid out like the fullest one.

    Attributes:
        organization: the stack.
        placement: where its units sit.
        shape: the product.
        inner_ways: channels among which the inner dimension is cut, and whose sums are added; each
            such group of channels holds its own columns.
        segments: parts of a channel's inner dimension, one after the other.
        passes: how rows share reads of the weights.
    """

    organization: Organization
    placement: Placement
    shape: ProductShape
    inner_ways: int
    segments: int
    passes: QueryPasses

    @classmethod
    def of(
        cls,
        device: DramDevice,
        placement: Placement,
        shape: ProductShape,
        *,
        inner_ways: int,
        rows_per_read: int = 1,
        row_kept_open: bool = False,
    ) -> ProductLayout:
        """Return the layout on a device.

        Args:
            device: a device with a pipeline.
            placement: where its units sit.
            shape: the product.
            inner_ways: channels among which the inner dimension is cut; a divisor of the channels.
            rows_per_read: rows of the activations that a read of the weights serves at most.
            row_kept_open: whether to cut the inner dimension into so many segments that each lies
                in one DRAM row of its banks; unused where a row does not hold all columns.

        Raises:
            InputError: the device has no pipeline; the channels cannot be grouped by `inner_ways`;
                half a vector buffer does not hold an access of each of `rows_per_read` rows; or
                the weights do not fit into the banks.
        """
        o = device.organization
        words = pipeline_of(device).buffer_words
        passes = QueryPasses.of(shape.rows, rows_per_read)
        if inner_ways < 1 or o.channels % inner_ways:
            raise InputError(
                f"inner_ways = {inner_ways} does not divide the {o.channels} channels of a stack"
            )
        if passes.most > words:
            raise InputError(
                f"half a vector buffer holds {words} accesses, not one of each of {passes.most} "
                "rows",
                where=device.name,
                hint=f"read weights for at most {words} rows at a time",
            )
        layout = cls(o, placement, shape, inner_ways, 1, passes)
        whole = layout.segment
        fitting = words // passes.most
        in_a_row = o.columns * whole.banks_in_turn // whole.keys_per_part
        if row_kept_open and in_a_row:
            fitting = min(fitting, in_a_row)
        layout = replace(layout, segments=-(-whole.columns_per_key // fitting))
        rows = layout.segments * layout.rows_per_segment
        if rows > o.rows:
            raise InputError(
                f"the weights of {shape.columns} columns of {shape.inner} take {rows} rows of "
                f"every bank, which has {o.rows}",
                hint="compute fewer columns on each stack",
            )
        return layout

    @property
    def columns_per_channel(self) -> int:
        """Columns of the fullest channel."""
        return -(-self.shape.columns * self.inner_ways // self.organization.channels)

    @property
    def inner_per_channel(self) -> int:
        """Length of the fullest channel's part of the inner dimension."""
        return -(-self.shape.inner // self.inner_ways)

    @cached_property
    def segment(self) -> HeadLayout:
        """Layout of the weights of one segment: each column is a key."""
        return HeadLayout(
            self.organization,
            self.placement,
            -(-self.inner_per_channel // self.segments),
            self.shape.element,
            self.columns_per_channel,
        )

    @property
    def rows_per_segment(self) -> int:
        """Rows of every bank that a segment takes."""
        return rows_of(self.segment, self.segment.length)

    @property
    def regions(self) -> HeadRegions:
        """Where the weights of each segment begin, as keys.

        The regions of values stay unused. They lie behind all weights, without overlap.
        """
        o = self.organization
        begins = np.arange(2 * self.segments, dtype=np.int64)
        begins *= self.rows_per_segment * o.columns * o.access_bytes
        return HeadRegions(begins[: self.segments], begins[self.segments :])

    @property
    def multiplies(self) -> int:
        """Multiply commands of a channel."""
        return self.passes.passes * self.segments * self.segment.score_multiplies

    @property
    def useful_share(self) -> float:
        """Multiplications of the product over those that all channels of the stack do."""
        done = self.segments * self.segment.score_multiplies * self.organization.channels
        one = self.segment
        per_multiply = one.sequence_parts * one.dimension_parts * one.elements_per_column
        return self.shape.inner * self.shape.columns / (done * per_multiply)


def product_program(
    device: DramDevice, layout: ProductLayout, *, multiply_interval: int
) -> Program:
    """Build the program of one stack for a matrix product.

    Args:
        device: the device of the layout; it must have a pipeline.
        layout: how the weights lie in the channels.
        multiply_interval: cycles between two multiplies; it decides the places of the other steps
            among the multiplies.

    Raises:
        InputError: the device has no pipeline.
    """
    pipeline = pipeline_of(device)
    segment = layout.segment
    commands = head_commands(segment.head(1))
    # Units that hold the same part of a row share their fills.
    fill_places = commands.q[:: segment.columns_per_key]
    unit_size = segment.keys_per_move * segment.columns_per_key
    of_phase = segment.score_multiplies  # multiplies of each phase
    units_of_phase = -(-of_phase // unit_size)
    base = np.repeat(layout.regions.keys, layout.passes.passes)
    rows = np.tile(np.array(layout.passes.each, dtype=np.int64), layout.segments)
    phases, units = len(base), len(base) * units_of_phase
    unit = np.arange(units, dtype=np.int64)
    phase_of_unit = unit // units_of_phase
    begins = phase_of_unit * of_phase + unit % units_of_phase * unit_size
    begins = np.append(begins, np.full(2, phases * of_phase))

    # Events, numbered from 1: a unit may begin; a unit's multiplies have ended; the half of the
    # buffer of a phase (from the third on) may be filled.
    begun, done, free = 1, 1 + units, 1 + 2 * units

    # Refresh waits for row hits, and these never end in a row that stays open. So a few phases wait
    # until the banks could be precharged.
    pause_after = device.timing["nRTPL"] + 1
    stretch = max(1, device.timing["nREFI"] // PAUSES_PER_REFRESH)
    stretches = np.arange(phases + 1, dtype=np.int64) * of_phase * multiply_interval // stretch
    pauses = np.append(stretches[1:phases] != stretches[: phases - 1], False)

    n = np.arange(phases * of_phase, dtype=np.int64)
    phase, x = np.divmod(n, of_phase)
    own = phase * units_of_phase + x // unit_size
    multiplies = _Steps.of(
        MULTIPLY[layout.placement],
        base[phase] + segment.multiply_addresses(of_phase)[x],
        n.astype(np.float64),
        waits=begun + own,
        signals=(
            done + own,
            _if(phase + 2 < phases, free + phase + 2),
            _if(pauses[phase], begun + (phase + 1) * units_of_phase),
        ),
        delays=(pipeline.multiply_to_move, pipeline.multiply_to_move, pause_after),
    )

    spacing = max(1.0, device.timing["nCCDL"] / multiply_interval)
    latency = pipeline.multiply_to_move / multiply_interval
    slots = rows * segment.columns_per_key
    phase, i = _counted(slots * len(fill_places))
    first = phase * units_of_phase
    # The half of the buffer is free when the phase before the previous one has ended.
    start = np.where(phase > 1, (phase - 1) * of_phase + latency, 0.0)
    fills = _Steps.of(
        Kind.WRGB,
        base[phase] + fill_places[i // slots[phase]] + i % slots[phase],
        np.minimum(start + spacing * i, begins[first]),
        waits=_if(phase > 1, free + phase),
        # Units after the second wait for the moves of others that use the same fills.
        signals=(
            begun + first,
            _if(np.full(len(i), units_of_phase > 1), begun + first + 1),
            np.zeros_like(i),
        ),
        delays=(pipeline.write_to_multiply, pipeline.write_to_multiply, 0),
    )

    moves_of_unit = rows[phase_of_unit] * len(commands.score_moves)
    latest = np.append(begins[2:units].astype(np.float64), np.full(2, begins[-1] + units))[-units:]
    ready = np.empty(units)
    last = 0.0
    for u, (end, count, limit) in enumerate(
        zip(begins[1:].tolist(), moves_of_unit.tolist(), latest.tolist(), strict=False)
    ):
        ready[u] = max(end + latency, last)
        last = min(ready[u] + spacing * (count - 1), limit)
    own, i = _counted(moves_of_unit)
    moves = _Steps.of(
        Kind.MVSB,
        base[phase_of_unit[own]] + commands.score_moves[i % len(commands.score_moves)],
        np.minimum(ready[own] + spacing * i, latest[own]),
        waits=done + own,
        signals=(
            _if(own + 2 < units, begun + own + 2),
            _if(own + 1 < units, done + own + 1),
            np.zeros_like(own),
        ),
        # A set of accumulators is free in the cycle after its last move, not in the same cycle.
        delays=(1, 0, 0),
    )
    # At the same place moves come first, then fills.
    steps = _Steps.sorted((moves, fills, multiplies))
    o = layout.organization
    return Program(
        o,
        steps.kind,
        steps.address,
        np.zeros(len(steps.kind), dtype=np.int16),
        np.full(len(steps.kind), o.channels, dtype=np.int16),
        Dependences(steps.waits, steps.signals, steps.delays, 2 * units + phases),
    )


def _counted(counts: I64) -> tuple[I64, I64]:
    """Return each item's owner and its number within the owner, given the owners' counts."""
    owner = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    starts = np.cumsum(counts) - counts
    return owner, np.arange(len(owner), dtype=np.int64) - starts[owner]


def _if(there: npt.NDArray[np.bool_], event: I64) -> I64:
    """Return the events where `there` is true, and 0 (no event) elsewhere."""
    return np.where(there, event, 0)


@dataclass(frozen=True, eq=False)
class _Steps:
    """Steps of a channel, with the columns of `attacc.pim.program.program.Program`.

    Attributes:
        kind: (n,) kind of each step.
        address: (n,) byte address below the channel.
        place: (n,) place of the step among the multiplies, as a number of multiplies.
        waits: (n,) event that the step waits for, 0 for none.
        signals: (n, 3) events that the step signals, 0 for none.
        delays: (n, 3) cycles until each signal takes effect.
    """

    kind: npt.NDArray[np.uint8]
    address: I64
    place: F64
    waits: I32
    signals: I32
    delays: I32

    @classmethod
    def of(
        cls,
        kind: Kind,
        address: I64,
        place: F64,
        *,
        waits: I64,
        signals: tuple[I64, I64, I64],
        delays: tuple[int, int, int],
    ) -> _Steps:
        """Return steps of one kind, with the same delays of their signals."""
        return cls(
            np.full(len(address), kind, dtype=np.uint8),
            address,
            place,
            waits.astype(np.int32),
            np.stack(signals, axis=1).astype(np.int32),
            np.tile(np.array(delays, dtype=np.int32), (len(address), 1)),
        )

    @classmethod
    def sorted(cls, parts: Sequence[_Steps]) -> _Steps:
        """Return all steps sorted by place; at the same place, in the given order of `parts`."""
        order = np.argsort(np.concatenate([part.place for part in parts]), kind="stable")
        return cls(
            np.concatenate([part.kind for part in parts])[order],
            np.concatenate([part.address for part in parts])[order],
            np.concatenate([part.place for part in parts])[order],
            np.concatenate([part.waits for part in parts])[order],
            np.concatenate([part.signals for part in parts])[order],
            np.concatenate([part.delays for part in parts])[order],
        )
