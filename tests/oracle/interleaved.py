"""The interleaved schedule, step by step in Python and then sorted: what the compiled one must do.

Slow on purpose; see `attacc.pim.program.interleaved` for what it means.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.hardware.dram import DramDevice
from attacc.pim.mapping.balance import Assignment
from attacc.pim.mapping.geometry import KeyLayout, allocate_chunks
from attacc.pim.program.interleaved import pipeline_of, softmax_cycles
from attacc.pim.program.program import MULTIPLY, Dependences, Kind, Program
from attacc.pim.program.schedule import head_commands

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

MOVE, SOFTMAX, FILL, MULTIPLIES = range(4)
"""Order of steps that should issue at the same place."""


SIGNALS: Final = 3
"""Events that a step signals at most."""


@dataclass(frozen=True)
class _Turn:
    """One pass over one chunk.

    Attributes:
        chunk: place of the chunk in the channel's list.
        length: its keys.
        queries: queries of the pass.
    """

    chunk: int
    length: int
    queries: int


@dataclass(frozen=True, eq=False)
class _Phase:
    """One phase of a channel.

    Attributes:
        turn: place of its turn.
        part: -1 - s for the score of slice s of the keys, else which part of the context.
        base: where the chunk's keys begin, in every bank.
        fills: for each query, addresses of what fills the buffer.
        units: addresses of each unit's multiplies.
        moves: addresses of one unit's moves, for all queries.
    """

    turn: int
    part: int
    base: int
    fills: list[I64]
    units: list[I64]
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
    """Build the program of one stack for heads of any lengths."""
    o = device.organization
    groups: list[tuple[int, int, I64, I64]] = []
    first = 0
    lengths = [tuple(chunk.length for chunk in chunks) for chunks in assignment.channels]
    rooms = lengths if capacities is None else [tuple(own) for own in capacities]
    if apart > 1:
        parts = layout.sequence_parts
        rooms = [tuple(-(-own // parts) * parts * apart for own in each) for each in lengths]
    turned = [(0,) * len(own) for own in lengths]
    if rotations is not None:
        turned = [tuple(own) for own in rotations]
    alike = list(zip(lengths, rooms, turned, strict=True))
    while first < o.channels:
        last = first + 1
        while last < o.channels and alike[last] == alike[first]:
            last += 1
        if lengths[first]:
            turns = _turns(lengths[first], queries, queries_per_read)
            phases = _phases(device, layout, rooms[first], turned[first], turns, apart)
            steps = _channel_steps(device, layout, turns, phases, multiply_interval)
            groups.append((first, last, *steps))
        first = last
    common = np.concatenate([common for _, _, _, common in groups])
    signals, delays = common[:, 3 : 3 + SIGNALS], common[:, 3 + SIGNALS :]
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
            events=-(-int(common[:, 2 : 3 + SIGNALS].max()) // 4) * 4,
        ),
    )


def _turns(lengths: Sequence[int], queries: int, queries_per_read: int) -> list[_Turn]:
    """Let chunks take turns two at a time, until all of their passes are done."""
    passes = -(-queries // queries_per_read)
    shares = [len(range(which, queries, passes)) for which in range(passes)]
    turns: list[_Turn] = []
    for first in range(0, len(lengths), 2):
        pair = range(first, min(first + 2, len(lengths)))
        turns += [_Turn(chunk, lengths[chunk], share) for share in shares for chunk in pair]
    return turns


def _phases(
    device: DramDevice,
    layout: KeyLayout,
    rooms: Sequence[int],
    rotations: Sequence[int],
    turns: Sequence[_Turn],
    apart: int,
) -> list[_Phase]:
    """Cut the attention of a channel's chunks into phases, in order."""
    half = pipeline_of(device).buffer_words
    words = half // max(turn.queries for turn in turns)
    regions = allocate_chunks(layout, rooms)
    scores: list[list[_Phase]] = []
    contexts: list[list[_Phase]] = []
    for at, turn in enumerate(turns):
        chunk = layout.head(turn.length)
        keys, values = int(regions.keys[turn.chunk]), int(regions.values[turn.chunk])
        commands = head_commands(chunk)
        width = chunk.columns_per_slice
        size = chunk.keys_per_move * width
        reserved = replace(chunk, length=rooms[turn.chunk])
        moves = np.tile(keys + commands.score_moves, turn.queries)
        banks = np.unique(commands.q - commands.q % layout.organization.bank_bytes)
        scores.append([])
        for which, addresses in enumerate(
            head_commands(reserved).score.reshape(layout.key_slices, -1)
        ):
            by_key = addresses.reshape(-1, width)[::apart][: chunk.keys_per_part]
            own = np.roll(by_key, -rotations[turn.chunk], axis=0).ravel()
            score = [keys + own[i : i + size] for i in range(0, len(own), size)]
            accesses = np.add.outer(banks, which * half + np.arange(width)).ravel()
            queries = [keys + accesses + i * width for i in range(turn.queries)]
            scores[-1].append(_Phase(at, -1 - which, keys, queries, score, moves))
        contexts.append([])
        places = commands.probabilities.reshape(-1, chunk.probability_words)[:, 0]
        # Slices lie as far apart as if the chunk had all the keys for which it has room.
        if layout.one_copy:
            # The same places as those of keys: slice by slice of these, key by key.
            by_key = head_commands(reserved).score.reshape(layout.key_slices, -1, width)
            by_slice = by_key.transpose(0, 2, 1).reshape(layout.columns_per_key, -1)
            by_slice = by_slice[: layout.context_slices]
        else:
            by_slice = head_commands(reserved).context.reshape(-1, reserved.keys_per_part)
        by_slice = by_slice[:, ::apart][:, : chunk.keys_per_part]
        by_slice = np.roll(by_slice, -rotations[turn.chunk], axis=1)
        for part, word in enumerate(range(0, chunk.probability_words, words)):
            own = min(words, chunk.probability_words - word)
            accesses = np.add.outer(places, part * half + np.arange(own)).ravel()
            fills = [values + accesses + i * own for i in range(turn.queries)]
            columns = slice(
                word * chunk.elements_per_column, (word + words) * chunk.elements_per_column
            )
            units = [values + one[columns] for one in by_slice]
            moves = np.tile(values + commands.context_moves, turn.queries)
            contexts[-1].append(_Phase(at, part, keys, fills, units, moves))
    phases: list[_Phase] = []
    for at in range(len(turns)):
        phases += scores[0] if at == 0 else []
        phases += scores[at + 1] if at + 1 < len(turns) else []
        phases += contexts[at]
    return phases


def _channel_steps(
    device: DramDevice,
    layout: KeyLayout,
    turns: Sequence[_Turn],
    phases: Sequence[_Phase],
    interval: int,
) -> tuple[I64, I64]:
    """Return the addresses of a channel's steps, and (n, 9) kind, rank, waits, signals, delays."""
    pipeline = pipeline_of(device)
    multiply = MULTIPLY[layout.placement]
    spacing = max(1.0, device.timing["nCCDL"] / interval)

    sizes = [[len(unit) for unit in phase.units] for phase in phases]
    begins = np.cumsum([0, *(sum(units) for units in sizes)]).tolist()
    first_units = np.cumsum([0, *map(len, sizes)]).tolist()
    unit_begins = np.cumsum([0, *(size for units in sizes for size in units)]).tolist()
    all_units = first_units[-1]
    # Events: filled and free to begin, per unit; multiplied, per unit; ready to be filled, per
    # phase, and per query where it returns from its softmax; scored, per turn and query. Those
    # beyond the last unit, phase or softmax are none. The four kinds take turns in numbering.
    begin_event = [*range(1, 4 * all_units, 4), 0, 0]
    done_event = [*range(2, 4 * all_units, 4), 0]
    event = 3
    fill_events: list[list[int]] = []
    for phase in phases:
        own = len(phase.fills) if phase.part == 0 else 1
        fill_events.append([event + 4 * i for i in range(own)])
        event += 4 * own
    fill_events += [[0], [0]]
    event = 4
    scored_events: list[list[int]] = []
    for turn in turns:
        scored_events.append([event + 4 * i for i in range(turn.queries)])
        event += 4 * turn.queries
    scored_events.append([0])
    context_of = {phase.turn: k for k, phase in enumerate(phases) if phase.part == 0}

    steps = _Steps()
    softmax_places: dict[int, list[float]] = {}
    last_move = 0.0
    for k, phase in enumerate(phases):
        turn = turns[phase.turn]
        busy = int(softmax_cycles(device, turn.length))
        # Fill the half of the buffer that phase k reads. It is free when the phase before the
        # previous one has ended.
        place = float(begins[k - 1]) if k else 0.0
        filled = 0
        for i, fill in enumerate(phase.fills):
            # All units of a phase use what fills the buffer. Those after the second wait for the
            # moves of others that do.
            signals = [
                (begin_event[unit], pipeline.write_to_multiply)
                for unit in range(first_units[k], min(first_units[k] + 2, first_units[k + 1]))
            ]
            if phase.part == 0:
                ready = softmax_places[phase.turn][i]
                place = max(
                    ready + (busy + pipeline.softmax_to_move) / interval, place + spacing * filled
                )
                filled = 0
            if phase.part == 0 and i + 1 < turn.queries:
                signals.append((fill_events[k][i + 1], 0))
            elif i + 1 == turn.queries and k + 1 < len(phases) and phases[k + 1].part > 0:
                signals.append((fill_events[k + 1][0], 0))
            steps.add(
                Kind.WRGB if phase.is_score else Kind.MVGB,
                FILL,
                fill,
                np.minimum(place + spacing * (filled + np.arange(len(fill))), begins[k]),
                waits=fill_events[k][i if phase.part == 0 else 0],
                signals=signals,
            )
            filled += len(fill)
        latest = begins[context_of[phase.turn]] if phase.is_score else begins[-1] + all_units
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
                    (fill_events[k + 2][0], pipeline.multiply_to_move),
                ],
            )
            ready = max(end + pipeline.multiply_to_move / interval, last_move)
            before = unit_begins[unit + 2] if unit + 2 < all_units else latest
            moves = np.minimum(ready + spacing * np.arange(len(phase.moves)), min(before, latest))
            scored = scored_events[phase.turn][0] if phase.is_score else 0
            steps.add(
                Kind.MVSB,
                MOVE,
                phase.moves,
                moves,
                waits=done_event[unit],
                signals=[
                    (begin_event[unit + 2], 1),
                    (done_event[unit + 1], 0),
                    (scored, pipeline.move_to_softmax),
                ],
            )
            last_move = float(moves[-1])
        if phase.part == -layout.key_slices:
            # The softmax of each query, after that of the one before, whose lanes it takes over.
            place = last_move + pipeline.move_to_softmax / interval
            places = softmax_places[phase.turn] = []
            for i, scored in enumerate(scored_events[phase.turn]):
                places.append(min(place, latest))
                following = [*scored_events[phase.turn][i + 1 :], scored_events[phase.turn + 1][0]]
                steps.add(
                    Kind.SFM,
                    SOFTMAX,
                    np.array([phase.base], dtype=np.int64),
                    np.array([places[i]]),
                    waits=scored,
                    signals=[
                        (fill_events[context_of[phase.turn]][i], busy + pipeline.softmax_to_move),
                        (following[0], busy),
                    ],
                )
                place = places[i] + busy / interval
    return steps.columns()
