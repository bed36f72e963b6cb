"""Deals the heads of a stack out to its channels, so that the slowest channel finishes soonest.

Ways to deal (`attacc.pim.mapping.balance.ways`) differ in how many chunks they make. The cost of
a chunk beyond its keys depends on the device: even a short chunk opens rows and moves its queries,
scores and contexts, and its softmax has to be hidden under the multiplies of its neighbours. So
ways are compared by a *forecast* of the slowest channel. The engine plays the ways with the best
forecasts, and the fastest of these is taken.

The forecast follows the phases of `attacc.pim.program.interleaved` one by one:

- multiplies, at their least distance, and the opening of their rows. Where one bank is read, this
  is the time from the last multiply over the precharge and the activate to the next multiply. Where
  banks take turns, it is the time by which activates must be further apart than multiplies allow;
- softmaxes, which use the lanes one after the other, and the return of probabilities into a half of
  the vector buffers, which has to be free;
- moves, at their least distance.

The forecast leaves out refresh, which takes about the same share of the time of every way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from attacc.hardware.dram import DramDevice
from attacc.pim.mapping.balance import Assignment, Chunk, assign_together, ways
from attacc.pim.mapping.geometry import KeyLayout, rows_of_chunks
from attacc.pim.mapping.ring import rotation
from attacc.pim.program.interleaved import (
    QueryPasses,
    chunk_grain,
    interleaved_program,
    longest_chunk,
    move_places,
    pipeline_of,
    softmax_cycles,
)
from attacc.pim.timing.engine import TimedRun, run
from attacc.pim.timing.tables import Code, TimingTables

I64 = npt.NDArray[np.int64]

MARGIN: Final = 0.005
"""Assumed error of the forecast: ways that are this close to the best one are played, too."""

NEAR: Final = 0.01
"""No other way is tried where the usual way takes at most this share more than perfect balance."""

PLAYED: Final = 2
"""Most ways that are played for a long program, besides the usual one."""

SHORT: Final = 30_000
"""Most cycles of a short program. The engine plays a short program in every way that may be the
fastest: its forecast is wrong by more than ways differ, and playing it costs little."""

FAR: Final = 0.3
"""A way whose forecast exceeds another's by this share is not the fastest."""


class DealtRun(NamedTuple):
    """How heads were dealt out, and the timed run of their program."""

    assignment: Assignment
    timed: TimedRun


@dataclass(frozen=True, eq=False)
class Dealer:
    """Deals heads of one kind out to the channels of a stack.

    Attributes:
        device: a device with a pipeline.
        layout: how a key lies in the banks.
        tables: the device, resolved for the placement and the queries of a pass.
        passes: how the queries that share keys and values are divided into passes.
    """

    device: DramDevice
    layout: KeyLayout
    tables: TimingTables
    passes: QueryPasses

    def play(
        self,
        lengths: Sequence[int],
        *,
        window_cycles: int = 0,
        oldest: Sequence[int] | None = None,
        apart: int = 1,
        together: int | None = None,
        log: bool = False,
    ) -> DealtRun:
        """Deal heads out and play their program.

        The way of `assign` is played first. For a short program (`SHORT`) the other ways are
        played too, except those whose forecast exceeds the best one by `FAR`. For a long program
        only ways that are forecast to be faster are played: the fastest of them, and those within
        `MARGIN` of the fastest, no more than `PLAYED`. The fastest played way is taken. Among
        equally fast ways the first one played is taken: that of `assign`, or the one with the
        fewest chunks.

        Args:
            lengths: keys of every head.
            window_cycles: as for `attacc.pim.timing.engine.run`.
            oldest: place of the oldest key of every head, where keys lie in a ring
                (`attacc.pim.mapping.ring`); None for the first place. The forecast leaves out that
                a ring may open a row twice.
            apart: as for `interleaved_program`. The forecast leaves out that keys which lie apart
                open more rows.
            together: consecutive heads that stay in one channel, for which there is a single way
                (`attacc.pim.mapping.balance.assign_together`); None for heads in any channels.
            log: as for `attacc.pim.timing.engine.run`.

        Raises:
            InputError: there are no heads; a head has no keys; or the heads do not fit into banks
                or buffers.
        """
        found = self._fastest(lengths, window_cycles, oldest, apart, together)
        if not log:
            return found
        # Ways that are not taken need no log.
        return self._play(found.assignment, window_cycles, oldest, apart, log=True)

    def _fastest(
        self,
        lengths: Sequence[int],
        window_cycles: int,
        oldest: Sequence[int] | None,
        apart: int,
        together: int | None,
    ) -> DealtRun:
        """Return the fastest way that is played; arguments are those of `play`."""
        channels = self.device.organization.channels
        longest = longest_chunk(self.device, self.layout, self.passes.most)
        grain = chunk_grain(self.layout)
        if together is not None:
            only = assign_together(
                lengths, together=together, channels=channels, longest=longest, grain=grain
            )
            return self._play(only, window_cycles, oldest, apart)
        dealt = ways(lengths, channels=channels, longest=longest, grain=grain)
        usual = next(dealt)
        best = self._play(usual, window_cycles, oldest, apart)
        cycles = self.forecast(usual)
        if cycles <= (1 + NEAR) * self.least(lengths):
            return best
        others = [
            (self.forecast(way), len(way.dealt.head), way)
            for way in dealt
            if self._fits(way, apart)
        ]
        others.sort(key=lambda other: other[:2])
        least = min([cycles, *(expected for expected, _, _ in others)])
        above = FAR
        if cycles > SHORT:
            others = [other for other in others if other[0] < cycles][:PLAYED]
            above = MARGIN
        for expected, _, way in others:
            if expected > (1 + above) * least:
                break
            played = self._play(way, window_cycles, oldest, apart)
            if played.timed.cycles < best.timed.cycles:
                best = played
        return best

    def held(self, channels: Sequence[Sequence[int]], *, log: bool = False) -> DealtRun:
        """Play the program of chunks that lie in their channels already.

        Args:
            channels: keys of the chunks of each channel.
            log: as for `attacc.pim.timing.engine.run`.

        Raises:
            InputError: the chunks do not fit into banks or buffers.
        """
        numbers = count()
        held = [[Chunk(next(numbers), 0, keys) for keys in own] for own in channels]
        return self._play(Assignment.of(held), 0, None, 1, log=log)

    def forecast(self, assignment: Assignment) -> int:
        """Return about how many cycles the slowest channel takes, without refresh."""
        from attacc.pim.timing import dealing_kernel  # loads Numba

        distinct = list(dict.fromkeys(assignment.lengths))
        keys = np.array([length for own in distinct for length in own], dtype=np.int64)
        bounds = np.zeros(len(distinct) + 1, dtype=np.int64)
        np.cumsum([len(own) for own in distinct], out=bounds[1:])
        width = self.layout.sequence_parts * self.layout.elements_per_column
        return dealing_kernel.forecast(
            -(-keys // width), bounds, self._multiplying(keys), softmax_cycles(self.device, keys),
            self.passes.queries, self.passes.passes, self.layout.columns_per_slice,
            self.layout.key_slices, self.layout.context_slices, self._part_words, self._moves,
            self.tables.moves_apart, self._pipeline, np.empty(2, dtype=np.int64),
        )  # fmt: skip

    def least(self, lengths: Sequence[int]) -> float:
        """Return about the least cycles of any way to deal heads out, without refresh.

        The sum has three parts: the multiplies in the mean of all channels, the way of the first
        query to them, and the way of the last context from them.
        """
        cycles = int(self._multiplying(np.array(lengths, dtype=np.int64)).sum())
        return self._ends + cycles * self.passes.passes / self.device.organization.channels

    @cached_property
    def _ends(self) -> int:
        first, _, _, last = self._moves.tolist()
        moves = self.passes.most * (first * self.layout.columns_per_slice + last)
        return moves * self.tables.moves_apart + int(self._pipeline[:2].sum())

    def _multiplying(self, keys: I64) -> I64:
        """Return (2, chunks) cycles of the multiplies of scores and contexts, for one pass."""
        from attacc.pim.timing import dealing_kernel  # loads Numba

        cycles = np.empty((2, len(keys)), dtype=np.int64)
        segment = self._part_words * self.layout.elements_per_column
        dealing_kernel.multiplying(keys, segment, self._going, cycles)
        return cycles

    @cached_property
    def _going(self) -> I64:
        """How multiplies go through a chunk, in the form that the kernel takes."""
        layout, apart = self.layout, self.tables.apart
        interval, each = self.tables.multiply_interval, layout.multiplies_per_bank
        if layout.banks_in_turn == 1:
            opening = (
                apart(Code.MULTIPLY, Code.PRECHARGE, 0, 0)
                + apart(Code.PRECHARGE, Code.ACTIVATE, 0, 0)
                + apart(Code.ACTIVATE, Code.MULTIPLY, 0, 0)
            )
        else:
            address = int(layout.multiply_addresses(each + 1)[each])
            bank = address // layout.organization.bank_bytes
            opening = apart(Code.ACTIVATE, Code.ACTIVATE, 0, bank)
        row = layout.organization.columns * layout.banks_in_turn
        return np.array(
            [
                layout.sequence_parts, layout.columns_per_key, row, layout.banks_in_turn, each,
                interval, max(0, opening - each * interval), layout.context_slices,
                layout.slices_together,
            ],
            dtype=np.int64,
        )  # fmt: skip

    @cached_property
    def _moves(self) -> I64:
        return np.array(list(map(len, move_places(self.layout))), dtype=np.int64)

    @cached_property
    def _part_words(self) -> int:
        return pipeline_of(self.device).buffer_words // self.passes.most

    @cached_property
    def _pipeline(self) -> I64:
        one = pipeline_of(self.device)
        delays = (
            one.write_to_multiply, one.multiply_to_move, one.move_to_softmax, one.softmax_to_move,
        )  # fmt: skip
        return np.array(delays, dtype=np.int64)

    def _fits(self, assignment: Assignment, apart: int) -> bool:
        """Return whether the banks have rows for all chunks; each chunk begins a row."""
        most, parts = self.layout.organization.rows, self.layout.sequence_parts
        return all(
            rows_of_chunks(self.layout, [-(-one // parts) * parts * apart for one in own]) <= most
            for own in set(assignment.lengths)
        )

    def _play(
        self,
        assignment: Assignment,
        window_cycles: int,
        oldest: Sequence[int] | None,
        apart: int,
        *,
        log: bool = False,
    ) -> DealtRun:
        rotations = None
        if oldest is not None and any(oldest):
            parts = self.layout.sequence_parts
            rotations = [
                [rotation(oldest[head], start, length, parts) for head, start, length in own]
                for own in assignment.channels
            ]
        program = interleaved_program(
            self.device,
            self.layout,
            assignment,
            multiply_interval=self.tables.multiply_interval,
            queries=self.passes.queries,
            queries_per_read=self.passes.most,
            rotations=rotations,
            apart=apart,
        )
        return DealtRun(assignment, run(program, self.tables, window_cycles=window_cycles, log=log))
