"""Deals the heads of a stack out to its channels, so that the slowest channel is done soonest.

Ways to deal (`attacc.pim.mapping.balance.ways`) differ in how many chunks they make. What a chunk
costs beyond its keys depends on the device: it opens rows, moves its queries, scores and contexts
however short it is, and its softmax has to hide under the multiplies of its neighbours. So ways
are compared by a *forecast* of the slowest channel, and those that it prefers are played by the
engine, which has the last word.

The forecast follows the phases of `attacc.pim.program.interleaved` one by one:

- multiplies, at their least distance, and what opening their rows adds: where one bank is read,
  from the last multiply to the precharge, the activate and the next multiply; where banks take
  turns, what activates are further apart than multiplies leave them time;
- softmaxes, which take the lanes one after the other, and the way of the probabilities back into
  a half of the vector buffers that has to be free;
- moves, at their least distance.

It leaves out refresh, which takes about as much of the time of every way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from attacc.hardware.dram import DramDevice
from attacc.pim.mapping.balance import Assignment, ways
from attacc.pim.mapping.geometry import KeyLayout, rows_of_chunks
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
"""What the forecast may be wrong by: ways that are that close to the best one are played, too."""

NEAR: Final = 0.01
"""No other way is looked for where the usual one takes at most that much more than a perfect
balance would."""

PLAYED: Final = 2
"""Ways beside the usual one that are played at most, of a long program."""

SHORT: Final = 30_000
"""Most cycles of a short program. The engine plays a short program in every way that may be the
fastest: its forecast is wrong by more than ways differ, and playing it costs little."""

FAR: Final = 0.3
"""A way that is forecast to take so much more than another is not the fastest."""


class DealtRun(NamedTuple):
    """Heads as they were dealt out, and their program as it was timed."""

    assignment: Assignment
    timed: TimedRun


@dataclass(frozen=True, eq=False)
class Dealer:
    """Deals heads of one kind out to the channels of a stack.

    Attributes:
        device: a device with a pipeline.
        layout: how a key lies in the banks.
        tables: the device, resolved for the placement and the queries of a pass.
        passes: how queries that share keys and values are served.
    """

    device: DramDevice
    layout: KeyLayout
    tables: TimingTables
    passes: QueryPasses

    def play(self, lengths: Sequence[int], *, window_cycles: int = 0) -> DealtRun:
        """Deal heads out and play their program.

        That of `assign` is played first. Of a short program (`SHORT`) the others are played too,
        but those whose forecast is `FAR` from the best one. Of a long program those are played
        that are forecast to be faster: the fastest, and those within `MARGIN` of it, no more than
        `PLAYED`. The fastest that was played is taken; of several that are as fast, the one that
        was played first: that of `assign`, or the one of fewest chunks.

        Args:
            lengths: keys of every head.
            window_cycles: as for `attacc.pim.timing.engine.run`.

        Raises:
            InputError: no heads, or one of no keys; or something does not fit into banks or
                buffers.
        """
        dealt = ways(
            lengths,
            channels=self.device.organization.channels,
            longest=longest_chunk(self.device, self.layout, self.passes.most),
            grain=chunk_grain(self.layout),
        )
        usual = next(dealt)
        best = self._play(usual, window_cycles)
        cycles = self.forecast(usual)
        if cycles <= (1 + NEAR) * self.least(lengths):
            return best
        others = [
            (self.forecast(way), len(way.dealt.head), way) for way in dealt if self._fits(way)
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
            played = self._play(way, window_cycles)
            if played.timed.cycles < best.timed.cycles:
                best = played
        return best

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
            self.passes.queries, self.passes.passes, self.layout.columns_per_key, self._part_words,
            self._moves, self.tables.moves_apart, self._pipeline, np.empty(2, dtype=np.int64),
        )  # fmt: skip

    def least(self, lengths: Sequence[int]) -> float:
        """Return about how many cycles are taken however heads are dealt out, without refresh.

        Those that multiplies take in the mean of all channels, the first query on its way to them,
        and the last context on its way from them.
        """
        cycles = int(self._multiplying(np.array(lengths, dtype=np.int64)).sum())
        return self._ends + cycles * self.passes.passes / self.device.organization.channels

    @cached_property
    def _ends(self) -> int:
        first, _, _, last = self._moves.tolist()
        moves = self.passes.most * (first * self.layout.columns_per_key + last)
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
        """How multiplies go through a chunk, as the kernel is told."""
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
                interval, max(0, opening - each * interval),
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

    def _fits(self, assignment: Assignment) -> bool:
        """Return whether the banks have rows for all chunks, each of which begins a row."""
        most = self.layout.organization.rows
        return all(rows_of_chunks(self.layout, own) <= most for own in set(assignment.lengths))

    def _play(self, assignment: Assignment, window_cycles: int) -> DealtRun:
        program = interleaved_program(
            self.device,
            self.layout,
            assignment,
            multiply_interval=self.tables.multiply_interval,
            queries=self.passes.queries,
            queries_per_read=self.passes.most,
        )
        return DealtRun(assignment, run(program, self.tables, window_cycles=window_cycles))
