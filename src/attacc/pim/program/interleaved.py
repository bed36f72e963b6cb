"""The interleaved schedule: every step waits for exactly the data and buffers that it uses.

A channel attends to its chunks one after the other. The queries that share a chunk are served in
passes; one read of the keys and values serves all queries of a pass. Each pass over a chunk is a
*turn*, which consists of a score and a context. The score of the next turn comes between the two,
so that the softmaxes of a turn are hidden under multiplies of its neighbours: score of a, score of
b, context of a, score of c, context of b, and so on. Two chunks alternate until all their passes
have been served.

Each score or context is a phase. Keys that are cut into slices of elements have a score phase for
each slice, and the buffer die adds up the partial scores. While the multiplies of a phase read one
half of the vector buffers, the other half is filled for the next phase, with queries or with
probabilities. A context of more probabilities than a half holds is cut into several phases, and the
buffer die adds up their partial contexts. A phase consists of units. Each unit fills the
accumulators once: with the scores of 16 keys per part, or with one output slice, for every query of
the pass. There are two
sets of accumulators, so that a unit's sums move away while the next unit multiplies.

The steps are ordered by the time at which they should be able to issue: all multiplies in order,
and every other step at the place among them that the latencies of the pipeline suggest. This order
only affects speed. The events of `Dependences` make the program correct: an event happens when all
steps that signal it have issued, and

- a multiply waits for its buffer to be filled and its accumulators to be free,
- the move of a unit's sums waits for the unit's multiplies, and for the moves of the unit before
  it, because only the order tells which sums an MVSB takes,
- the softmax of a query waits for all scores of its turn, and for the softmax before it,
- a fill waits for the multiplies that still use that half of the buffer, and for the softmax of
  its query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from attacc.compiled import plain
from attacc.errors import InputError
from attacc.hardware.dram import DramDevice, Pipeline
from attacc.hardware.system import Schedule
from attacc.pim.mapping.balance import Assignment
from attacc.pim.mapping.geometry import HeadLayout, KeyLayout, allocate_chunks, check_room
from attacc.pim.program.program import MULTIPLY, Dependences, Program
from attacc.pim.program.schedule import head_commands
from attacc.units import NS_PER_S

I64 = npt.NDArray[np.int64]

SIGNALS: Final = 3
"""Events that a step signals at most."""

SCORE_BYTES: Final = 4
"""Bytes of a score in the softmax buffer: its lanes compute in fp32."""


def pipeline_of(device: DramDevice) -> Pipeline:
    """Return the device's pipeline.

    Raises:
        InputError: the device has no pipeline.
    """
    if device.pipeline is None:
        raise InputError(
            f"device {device.name} models no latencies between its commands",
            hint="the interleaved schedule needs a device with a [pipeline] table",
        )
    return device.pipeline


def chunk_grain(layout: KeyLayout) -> int:
    """Return the keys of a chunk that fill one group of moves of every part."""
    return layout.sequence_parts * layout.keys_per_move


def longest_chunk(device: DramDevice, layout: KeyLayout, queries_per_read: int = 1) -> int:
    """Return the most keys of a chunk whose scores fit into the softmax buffer.

    Each channel has an equal share of the buffer. A share holds the scores of two chunks for every
    query of a pass.

    Raises:
        InputError: the device models no pipeline, or its buffer holds not even two scores.
    """
    buffer_bytes = pipeline_of(device).softmax_buffer_bytes
    keys = int(buffer_bytes) // (2 * SCORE_BYTES * queries_per_read * device.organization.channels)
    if keys < 1:
        scores = "two scores" if queries_per_read == 1 else f"two times {queries_per_read} scores"
        raise InputError(
            f"softmax_buffer of {buffer_bytes:.0f} bytes does not hold {scores} per channel",
            where=device.name,
        )
    grain = chunk_grain(layout)
    return keys // grain * grain if keys > grain else keys


def softmax_cycles(device: DramDevice, lengths: npt.ArrayLike) -> I64:
    """Return the command clock cycles of each chunk's softmax on its channel's share of the lanes.

    Args:
        device: a device with a pipeline.
        lengths: keys of the chunks, an array of any shape; the result has the same shape.
    """
    pipeline = pipeline_of(device)
    lanes = max(1, pipeline.softmax_lanes // device.organization.channels)
    passes = pipeline.softmax_passes * -(-np.asarray(lengths, dtype=np.int64) // lanes)
    cycles = passes / pipeline.softmax_clock_hz * NS_PER_S / device.clock_ns
    return np.ceil(cycles).astype(np.int64)


@dataclass(frozen=True, slots=True)
class QueryPasses:
    """How the queries that share keys and values are divided into passes.

    Attributes:
        queries: number of queries.
        passes: number of passes; each reads the keys and values once.
    """

    queries: int
    passes: int

    @classmethod
    def of(cls, queries: int, queries_per_read: int) -> QueryPasses:
        """Return the fewest passes, with queries divided as equally as possible.

        Raises:
            InputError: one of the numbers is below 1.
        """
        for name, value in (("queries", queries), ("queries_per_read", queries_per_read)):
            if value < 1:
                raise InputError(f"{name} = {value} must be at least 1")
        return cls(queries, -(-queries // queries_per_read))

    @property
    def most(self) -> int:
        """Queries of the fullest pass, the first."""
        return -(-self.queries // self.passes)

    @property
    def each(self) -> tuple[int, ...]:
        """Queries of every pass."""
        least, more = divmod(self.queries, self.passes)
        return tuple(least + (which < more) for which in range(self.passes))


def sliced(
    device: DramDevice,
    layout: KeyLayout,
    passes: QueryPasses,
    schedule: Schedule = Schedule.INTERLEAVED,
    key_slices: int | None = None,
) -> KeyLayout:
    """Return the layout with keys cut into slices of elements.

    By default a key of which half a vector buffer holds a query is left whole. A longer key is cut
    into the fewest slices of which half a buffer holds those of all queries of a pass.

    Args:
        device: the device.
        layout: how a key lies in the banks, not cut.
        passes: how the queries that share keys and values are divided into passes.
        schedule: order of the commands. Those with barriers do not cut keys, and do not limit the
            vector buffers.
        key_slices: number of slices; None for the number above.

    Raises:
        InputError: the keys cannot be cut into so many slices, or the schedule cuts none.
    """
    if schedule is not Schedule.INTERLEAVED:
        if key_slices not in (None, 1):
            raise InputError(
                f"key_slices = {key_slices}: the {schedule} schedule does not cut keys",
                hint=f"use the {Schedule.INTERLEAVED} schedule, on a device with a [pipeline]",
            )
        return layout
    words = pipeline_of(device).buffer_words
    if key_slices is None:
        fitting = max(1, words // passes.most)
        whole = layout.columns_per_key <= words
        key_slices = 1 if whole else -(-layout.columns_per_key // fitting)
    return layout if key_slices == layout.key_slices else replace(layout, key_slices=key_slices)


def interleaved_program(
    device: DramDevice,
    layout: KeyLayout,
    assignment: Assignment,
    *,
    multiply_interval: int,
    queries: int = 1,
    queries_per_read: int = 1,
    capacities: Sequence[Sequence[int]] | None = None,
    rotations: Sequence[Sequence[int]] | None = None,
    apart: int = 1,
) -> Program:
    """Build the program of one stack for heads of any lengths.

    Neighbouring channels with chunks of the same lengths receive the same steps.

    Args:
        device: a device with a pipeline.
        layout: how a key lies in the banks.
        assignment: chunks of every channel.
        multiply_interval: cycles between two multiplies; it decides the places of the other steps
            among the multiplies.
        queries: query heads that share the keys and values of each head.
        queries_per_read: query heads that a read of keys or values serves at most.
        capacities: per channel, keys for which each chunk has room in the banks, so that it can
            grow in place; by default its number of keys.
        rotations: per channel, the key of each part with which reading each chunk begins, and from
            which it goes around (`attacc.pim.mapping.ring`); by default the first.
        apart: keys of each part from one key that is read to the next; each chunk has room for so
            many times its keys.

    Raises:
        InputError: the device has no pipeline; keys and values do not fit into the banks; a chunk
            or the queries of a pass do not fit into their buffers; or a chunk has less room than
            keys.
    """
    from attacc.pim.program import interleaved_kernel  # loads Numba

    o = device.organization
    pipeline = pipeline_of(device)
    passes = QueryPasses.of(queries, queries_per_read)
    spacing = max(1.0, device.timing["nCCDL"] / multiply_interval)
    lengths = assignment.lengths
    if apart > 1:
        parts = layout.sequence_parts
        capacities = [[-(-own // parts) * parts * apart for own in each] for each in lengths]
    groups = _groups(lengths, capacities, rotations)
    longest = max(map(max, filter(None, lengths)))
    _check_buffers(device, layout, longest, passes)

    places = move_places(layout)
    part_words = pipeline.buffer_words // passes.most
    shape = (
        queries, passes.passes, layout.sequence_parts, layout.keys_per_move,
        layout.elements_per_column, layout.key_slices, layout.columns_per_slice,
        layout.context_slices, part_words,
    )  # fmt: skip
    own_keys = [np.array(group.lengths, dtype=np.int64) for group in groups]
    counts = [interleaved_kernel.count(keys, *shape, *map(len, places)) for keys in own_keys]
    bounds = [0, *accumulate([count[0] for count in counts])]
    steps = bounds[-1]
    kind = np.empty(steps, dtype=np.uint8)
    address = np.empty(steps, dtype=np.int64)
    first_channel = np.empty(steps, dtype=np.int16)
    channels = np.empty(steps, dtype=np.int16)
    waits = np.empty(steps, dtype=np.int32)
    signals = np.empty((steps, SIGNALS), dtype=np.int32)
    delays = np.empty((steps, SIGNALS), dtype=np.int32)
    most_of_a_kind = max(
        max(fills, units, softmaxes) for _, fills, units, _, _, softmaxes in counts
    )
    events = interleaved_kernel.EVENTS_APART * most_of_a_kind
    most = max(max(group.rooms) for group in groups)
    multiplies = _multiplies(layout.head(most))
    spare = interleaved_kernel.SPARE
    common = plain(
        interleaved_kernel.Shape(*shape, pipeline.buffer_words, layout.slices_together, apart)
    )
    sites = plain(interleaved_kernel.Sites(multiplies, *places))
    times = plain(
        interleaved_kernel.Times(
            pipeline.write_to_multiply,
            pipeline.multiply_to_move,
            pipeline.move_to_softmax,
            pipeline.softmax_to_move,
            multiply_interval,
            spacing,
        )
    )
    for group, keys, sizes, (begin, end) in zip(
        groups, own_keys, counts, pairwise(bounds), strict=True
    ):
        steps, fills, units, phases, turns, softmaxes = sizes
        regions = allocate_chunks(layout, group.rooms)
        own = slice(begin, end)
        interleaved_kernel.weave(
            plain(
                interleaved_kernel.Chunks(
                    lengths=keys,
                    keys=regions.keys,
                    values=regions.values,
                    busy=softmax_cycles(device, keys),
                    strides=-(-np.array(group.rooms, dtype=np.int64) // layout.sequence_parts),
                    rotations=np.array(group.rotations, dtype=np.int64),
                )
            ),
            common,
            sites,
            times,
            int(MULTIPLY[layout.placement]),
            plain(
                interleaved_kernel.Room(
                    turns=np.empty((6, turns + spare), dtype=np.int64),
                    phases=np.empty((5, phases + spare), dtype=np.int64),
                    units=np.empty((3, units + spare), dtype=np.int64),
                    fill_places=np.empty(fills),
                    move_places=np.empty((2, units)),
                    softmax_places=np.empty(softmaxes),
                )
            ),
            plain(
                interleaved_kernel.Steps(
                    kind[own], address[own], waits[own], signals[own], delays[own]
                )
            ),
        )
        first_channel[own] = group.first
        channels[own] = group.last - group.first
    return Program(
        o, kind, address, first_channel, channels, Dependences(waits, signals, delays, events),
        np.array(bounds, dtype=np.int64),
    )  # fmt: skip


class _Group(NamedTuple):
    """Neighbouring channels that receive the same steps.

    Attributes:
        first: the first channel.
        last: one past the last.
        lengths: keys of each chunk.
        rooms: keys for which each chunk has room.
        rotations: key of each part with which reading each chunk begins.
    """

    first: int
    last: int
    lengths: tuple[int, ...]
    rooms: tuple[int, ...]
    rotations: tuple[int, ...]


def _groups(
    lengths: Sequence[tuple[int, ...]],
    capacities: Sequence[Sequence[int]] | None,
    rotations: Sequence[Sequence[int]] | None,
) -> list[_Group]:
    """Return the groups of channels with chunks; arguments as for `interleaved_program`."""
    rooms = lengths
    if capacities is not None:
        rooms = tuple(map(tuple, capacities))
        check_room(lengths, rooms)
    if rotations is None:
        turned = tuple((0,) * len(own) for own in lengths)
    else:
        turned = tuple(map(tuple, rotations))
    each = list(zip(lengths, rooms, turned, strict=True))
    groups: list[_Group] = []
    first = 0
    while first < len(each):
        last = first + 1
        while last < len(each) and each[last] == each[first]:
            last += 1
        if lengths[first]:
            groups.append(_Group(first, last, *each[first]))
        first = last
    return groups


@lru_cache(maxsize=64)
def _multiplies(layout: HeadLayout) -> I64:
    """Return the addresses of a head's multiplies, relative to its first key or value."""
    return layout.multiply_addresses(max(layout.score_multiplies, layout.value_places))


def move_places(layout: KeyLayout) -> tuple[I64, I64, I64, I64]:
    """Return the addresses of fills (queries, probabilities) and of moves (scores, slices).

    Args:
        layout: how a key lies in the banks.

    Returns:
        Four arrays: addresses of the fills with one access of a query, of the fills with one access
        of probabilities, of the moves of one unit's scores, and of the moves of one output slice.
    """
    return _places(layout.head(1))


@lru_cache(maxsize=64)
def _places(layout: HeadLayout) -> tuple[I64, I64, I64, I64]:
    commands = head_commands(layout)
    # Units that hold the same part of a key share their fills.
    query = commands.q[:: layout.columns_per_key].copy()
    return query, commands.probabilities, commands.score_moves, commands.context_moves


def _check_buffers(device: DramDevice, layout: KeyLayout, length: int, passes: QueryPasses) -> None:
    """Raise unless the queries of a pass, and their scores for the longest chunk, have room."""
    words = pipeline_of(device).buffer_words
    columns = layout.columns_per_slice
    if passes.most * columns > words:
        most = words // columns
        dim, accesses = layout.head_dim, passes.most * columns
        raise InputError(
            f"{passes.most} queries of head_dim {dim} take {accesses} accesses, half a vector "
            f"buffer holds {words}"
            if passes.most > 1
            else f"a query of head_dim {dim} takes {accesses} accesses, half a vector buffer "
            f"holds {words}",
            where=device.name,
            hint=f"read keys and values for at most {most} queries at a time"
            if most
            else "use a smaller head_dim, more key_slices, or a device with larger buffer_words",
        )
    # The address of a WRGB, within a row of the keys, says which access of which slice it writes.
    o = layout.organization
    if layout.key_slices * words > o.columns * o.access_bytes:
        raise InputError(
            f"the queries of {layout.key_slices} slices of keys have no addresses of their own "
            "within a row",
            where=device.name,
            hint="cut keys into fewer slices",
        )
    # The address of an MVGB, within the values, says which access of its half it writes.
    per_word = -(-words // (words // passes.most))
    room = layout.elements_per_column * layout.value_columns * o.access_bytes
    if per_word * layout.banks_in_turn > room:
        raise InputError(
            f"the probabilities of {passes.most} queries have no addresses of their own within "
            f"values of {layout.value_elements} elements",
            where=device.name,
            hint="read keys and values for fewer queries at a time",
        )
    longest = longest_chunk(device, layout, passes.most)
    if length > longest:
        raise InputError(
            f"a chunk of {length} keys leaves the softmax buffer no room for a second one",
            where=device.name,
            hint=f"cut heads into chunks of at most {longest} keys",
        )
