"""The interleaved schedule: every step waits for exactly what it uses.

A channel attends to its chunks two at a time, so that the softmax of one hides under multiplies
of the other: score of a, score of b, context of a, context of b. Each of these is a phase. While
a phase multiplies out of one half of the vector buffers, the other half is filled for the next
phase: with a query, or with probabilities; a context of more probabilities than a half holds is
cut into several phases, whose partial contexts the buffer die adds up. A phase consists of units,
each of which fills the accumulators once: the scores of 16 keys per part, or one output slice.
Accumulators are double, so that a unit's sums move away while the next unit multiplies.

The steps are ordered by when they should be able to issue: all multiplies in order, and every
other step at the place among them that the latencies of the pipeline suggest. Whatever the order,
the events of `Dependences` make it correct: an event happens when all steps that signal it have
issued, and

- a multiply waits for its buffer to be filled and its accumulators to be free,
- the move of a unit's sums waits for its multiplies, and for the moves of the unit before it, by
  whose order it is told which sums an MVSB takes,
- the softmax of a chunk waits for all its scores,
- a fill waits for the multiplies that still use that half of the buffer, and for the softmax.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.errors import InputError
from attacc.hardware.dram import DramDevice, Pipeline
from attacc.mapping.balance import Assignment
from attacc.mapping.head import HeadLayout, allocate_chunks
from attacc.program.program import MULTIPLY, Dependences, Kind, Program
from attacc.program.schedule import head_commands
from attacc.units import NS_PER_S

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

MOVE, SOFTMAX, FILL, MULTIPLIES = range(4)
"""Order of steps that should issue at the same place."""


SIGNALS: Final = 3
"""Events that a step signals at most."""

SCORE_BYTES: Final = 4
"""Bytes of a score in the softmax buffer: its lanes compute in fp32."""


def pipeline_of(device: DramDevice) -> Pipeline:
    """Return the device's pipeline.

    Raises:
        InputError: the device models none.
    """
    if device.pipeline is None:
        raise InputError(
            f"device {device.name} models no latencies between its commands",
            hint="the interleaved schedule needs a device with a [pipeline] table",
        )
    return device.pipeline


def chunk_grain(layout: HeadLayout) -> int:
    """Return the keys of a chunk that fill one group of moves of every part."""
    return layout.sequence_parts * layout.keys_per_move


def longest_chunk(device: DramDevice, layout: HeadLayout) -> int:
    """Return how many keys the softmax buffer lets a chunk have.

    Each channel has its share of the buffer, which holds the scores of two chunks.

    Raises:
        InputError: the device models no pipeline, or its buffer holds not even two scores.
    """
    buffer_bytes = pipeline_of(device).softmax_buffer_bytes
    keys = int(buffer_bytes) // (2 * SCORE_BYTES * device.organization.channels)
    if keys < 1:
        raise InputError(
            f"softmax_buffer of {buffer_bytes:.0f} bytes does not hold two scores per channel",
            where=device.name,
        )
    grain = chunk_grain(layout)
    return keys // grain * grain if keys > grain else keys


def softmax_cycles(device: DramDevice, length: int) -> int:
    """Return how long the softmax of a chunk takes on its channel's share of the lanes."""
    pipeline = pipeline_of(device)
    lanes = max(1, pipeline.softmax_lanes // device.organization.channels)
    passes = pipeline.softmax_passes * -(-length // lanes)
    return math.ceil(passes / pipeline.softmax_clock_hz * NS_PER_S / device.clock_ns)


@dataclass(frozen=True, eq=False)
class _Phase:
    """One phase of a channel.

    Attributes:
        chunk: place of the chunk in the channel's list.
        length: keys of the chunk.
        base: where its keys begin, in every bank.
        part: -1 for the score, else which part of the context.
        fill: addresses of what fills the buffer.
        units: addresses of each unit's multiplies.
        moves: addresses of one unit's moves.
    """

    chunk: int
    length: int
    base: int
    part: int
    fill: I64
    units: tuple[I64, ...]
    moves: I64

    @property
    def is_score(self) -> bool:
        """Whether it multiplies with keys."""
        return self.part < 0


class _Steps:
    """Growing columns of the steps of a channel."""

    def __init__(self) -> None:
        self.address: list[I64] = []
        self.place: list[F64] = []
        self.count: list[int] = []
        self.common: list[tuple[int, ...]] = []

    def add(
        self,
        kind: Kind,
        rank: int,
        address: I64,
        place: F64,
        *,
        waits: int,
        signals: Sequence[tuple[int, int]],
    ) -> None:
        """Append steps of one kind that wait for, and signal, the same events with a delay."""
        self.address.append(address)
        self.place.append(place)
        self.count.append(len(address))
        padded = [*signals, *[(0, 0)] * (SIGNALS - len(signals))]
        events, delays = zip(*padded, strict=True)
        self.common.append((int(kind), rank, waits, *events, *delays))

    def columns(self) -> tuple[I64, I64]:
        """Return the addresses, and (n, 9) what else is known of the steps, in order."""
        common = np.repeat(np.array(self.common, dtype=np.int64), self.count, axis=0)
        order = np.lexsort((common[:, 1], np.concatenate(self.place)))
        return np.concatenate(self.address)[order], common[order]


def interleaved_program(
    device: DramDevice, layout: HeadLayout, assignment: Assignment, *, multiply_interval: int
) -> Program:
    """Build the program of one stack for heads of any lengths.

    Neighbouring channels with chunks of the same lengths receive the same steps.

    Args:
        device: a device with a pipeline.
        layout: placement, head_dim and element type; its length is of no account.
        assignment: chunks of every channel.
        multiply_interval: cycles between two multiplies, which decides where among them the other
            steps should issue.

    Raises:
        InputError: the device models no pipeline, or keys and values do not fit into the banks, or
            a chunk or a query not into its buffer.
    """
    o = device.organization
    groups: list[tuple[int, int, I64, I64]] = []
    first = 0
    lengths = [tuple(chunk.length for chunk in chunks) for chunks in assignment.channels]
    while first < o.channels:
        last = first + 1
        while last < o.channels and lengths[last] == lengths[first]:
            last += 1
        if lengths[first]:
            steps = _channel_steps(device, layout, lengths[first], multiply_interval)
            groups.append((first, last, *steps))
        first = last
    common = np.concatenate([common for _, _, _, common in groups])
    signals, delays = common[:, 3 : 3 + SIGNALS], common[:, 3 + SIGNALS :]
    events = int(common[:, 2 : 3 + SIGNALS].max()) + 1
    producers = np.zeros((o.channels, events), dtype=np.int32)
    for first, last, _, steps in groups:
        producers[first:last] = np.bincount(steps[:, 3 : 3 + SIGNALS].ravel(), minlength=events)
    producers[:, 0] = 0
    sizes = [len(address) for _, _, address, _ in groups]
    return Program(
        o,
        common[:, 0].astype(np.uint8),
        np.concatenate([address for _, _, address, _ in groups]),
        np.repeat(np.array([first for first, _, _, _ in groups], dtype=np.int16), sizes),
        np.repeat(np.array([last - first for first, last, _, _ in groups], dtype=np.int16), sizes),
        Dependences(
            waits=common[:, 2].astype(np.int32),
            signals=np.ascontiguousarray(signals.astype(np.int32)),
            delays=np.ascontiguousarray(delays.astype(np.int32)),
            producers=producers,
        ),
    )


def _phases(device: DramDevice, layout: HeadLayout, lengths: Sequence[int]) -> list[_Phase]:
    """Cut the attention of a channel's chunks into phases, in order."""
    words = pipeline_of(device).buffer_words
    if layout.columns_per_key > words:
        raise InputError(
            f"a query of head_dim {layout.head_dim} takes {layout.columns_per_key} accesses, half "
            f"a vector buffer holds {words}",
            where=device.name,
            hint="use a smaller head_dim, or a device with larger buffer_words",
        )
    longest = longest_chunk(device, layout)
    if max(lengths) > longest:
        raise InputError(
            f"a chunk of {max(lengths)} keys leaves the softmax buffer no room for a second one",
            where=device.name,
            hint=f"cut heads into chunks of at most {longest} keys",
        )
    regions = allocate_chunks(layout, lengths)
    phases: list[_Phase] = []
    for pair in range(0, len(lengths), 2):
        contexts: list[_Phase] = []
        for i in range(pair, min(pair + 2, len(lengths))):
            chunk = replace(layout, length=lengths[i])
            keys, values = int(regions.keys[i]), int(regions.values[i])
            commands = head_commands(chunk)
            size = chunk.keys_per_move * chunk.columns_per_key
            cuts = range(size, len(commands.score), size)
            score = tuple(np.split(keys + commands.score, cuts))
            q, moves = keys + commands.q, keys + commands.score_moves
            phases.append(_Phase(i, lengths[i], keys, -1, q, score, moves))
            by_part = commands.probabilities.reshape(-1, chunk.probability_words)
            by_slice = commands.context.reshape(-1, chunk.keys_per_part)
            for part, word in enumerate(range(0, chunk.probability_words, words)):
                fill = values + by_part[:, word : word + words].ravel()
                columns = slice(
                    word * chunk.elements_per_column, (word + words) * chunk.elements_per_column
                )
                units = tuple(values + one[columns] for one in by_slice)
                moves = values + commands.context_moves
                contexts.append(_Phase(i, lengths[i], keys, part, fill, units, moves))
        phases += contexts
    return phases


def _channel_steps(
    device: DramDevice, layout: HeadLayout, lengths: Sequence[int], interval: int
) -> tuple[I64, I64]:
    """Return the addresses of a channel's steps, and (n, 9) kind, rank, waits, signals, delays."""
    pipeline = pipeline_of(device)
    phases = _phases(device, layout, lengths)
    multiply = MULTIPLY[layout.placement]
    spacing = max(1.0, device.timing["nCCDL"] / interval)

    sizes = [[len(unit) for unit in phase.units] for phase in phases]
    begins = np.cumsum([0, *(sum(units) for units in sizes)]).tolist()
    first_units = np.cumsum([0, *map(len, sizes)]).tolist()
    unit_begins = np.cumsum([0, *(size for units in sizes for size in units)]).tolist()
    all_units = first_units[-1]
    # Events: filled and free to begin, per unit; multiplied, per unit; ready to be filled, per
    # phase; scored, per chunk. Those beyond the last unit, phase or chunk are none.
    begin_event = [*range(1, all_units + 1), 0, 0]
    done_event = [*range(all_units + 1, 2 * all_units + 1), 0]
    fill_event = [*range(2 * all_units + 1, 2 * all_units + 1 + len(phases)), 0, 0]
    scored = 2 * all_units + len(phases)
    scored_event = [*range(scored + 1, scored + 1 + len(lengths)), 0]
    context_of = {phase.chunk: k for k, phase in enumerate(phases) if phase.part == 0}

    steps = _Steps()
    softmax_place: dict[int, float] = {}
    last_move = 0.0
    for k, phase in enumerate(phases):
        # Fill the half of the buffer that phase k reads.
        if phase.part == 0:
            length_cycles = softmax_cycles(device, phase.length) + pipeline.softmax_to_move
            place = softmax_place[phase.chunk] + length_cycles / interval
        else:
            place = 0
        # The half of the buffer is free when the phase before the previous one has ended.
        place = max(place, begins[k - 1] if k else 0)
        # All units of a phase use what fills the buffer. Those after the second wait for the moves
        # of others that do.
        signals = [
            (begin_event[unit], pipeline.write_to_multiply)
            for unit in range(first_units[k], min(first_units[k] + 2, first_units[k + 1]))
        ]
        if k + 1 < len(phases) and phases[k + 1].part > 0:
            signals.append((fill_event[k + 1], 0))
        steps.add(
            Kind.WRGB if phase.is_score else Kind.MVGB,
            FILL,
            phase.fill,
            np.minimum(place + spacing * np.arange(len(phase.fill)), begins[k]),
            waits=fill_event[k],
            signals=signals,
        )
        latest = begins[context_of[phase.chunk]] if phase.is_score else begins[-1] + all_units
        for unit, addresses in enumerate(phase.units, start=first_units[k]):
            begin, end = unit_begins[unit], unit_begins[unit + 1]
            steps.add(
                multiply,
                MULTIPLIES,
                addresses,
                np.arange(begin, end, dtype=np.float64),
                waits=begin_event[unit],
                signals=[
                    (done_event[unit], pipeline.multiply_to_move),
                    (fill_event[k + 2], pipeline.multiply_to_move),
                ],
            )
            ready = max(end + pipeline.multiply_to_move / interval, last_move)
            before = unit_begins[unit + 2] if unit + 2 < all_units else latest
            moves = np.minimum(ready + spacing * np.arange(len(phase.moves)), min(before, latest))
            steps.add(
                Kind.MVSB,
                MOVE,
                phase.moves,
                moves,
                waits=done_event[unit],
                signals=[
                    (begin_event[unit + 2], 1),
                    (done_event[unit + 1], 0),
                    (scored_event[phase.chunk] if phase.is_score else 0, pipeline.move_to_softmax),
                ],
            )
            last_move = float(moves[-1])
            softmax_place[phase.chunk] = last_move + pipeline.move_to_softmax / interval
        if phase.is_score:
            # The softmax, after that of the chunk before, whose lanes it takes over.
            place = min(softmax_place[phase.chunk], latest)
            softmax_place[phase.chunk] = place
            busy = softmax_cycles(device, phase.length)
            steps.add(
                Kind.SFM,
                SOFTMAX,
                np.array([phase.base], dtype=np.int64),
                np.array([place]),
                waits=scored_event[phase.chunk],
                signals=[
                    (fill_event[context_of[phase.chunk]], busy + pipeline.softmax_to_move),
                    (scored_event[phase.chunk + 1], busy),
                ],
            )
    return steps.columns()
