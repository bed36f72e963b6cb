"""What limits a timed program of a stack: how long each of its resources is busy.

Reads, units, moves and softmax work at the same time. Reads and units share the multiplies: a
multiply takes as long as the slower one of them, so that only the slower one holds it back. Rows
that open, and refresh, keep the multiplies waiting. The resource that is busy for most of the
program limits it. `tests/pim/test_limits.py` holds this against programs that are timed anew with
one resource faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.hardware.dram import DramDevice
from attacc.pim.mapping.geometry import KeyLayout
from attacc.pim.program.interleaved import move_places
from attacc.pim.timing.engine import TimedRun
from attacc.pim.timing.tables import Code, TimingTables

I64 = npt.NDArray[np.int64]

NEAR: Final = 0.05
"""Resources whose busy times differ by at most this share are both named."""


class Limiter(StrEnum):
    """The resource of a stack that limits a program, or the two that do so nearly alike."""

    READS = "reads"
    """Rows that open, columns at the DRAM's own pace, and refresh."""
    UNITS = "units"
    """The cadence of the multiplies: that of the units' arithmetic, or of the power budget."""
    MOVES = "moves"
    """Fills of the vector buffers, and moves of sums to the buffer die."""
    SOFTMAX = "softmax"
    """The softmax unit on the buffer die."""
    READS_UNITS = "reads and units"
    READS_MOVES = "reads and moves"
    READS_SOFTMAX = "reads and softmax"
    UNITS_MOVES = "units and moves"
    UNITS_SOFTMAX = "units and softmax"
    MOVES_SOFTMAX = "moves and softmax"

    @classmethod
    def of(cls, named: tuple[Limiter, ...]) -> Limiter:
        """Return the limiter that stands for one resource, or for two in any order."""
        single = (cls.READS, cls.UNITS, cls.MOVES, cls.SOFTMAX)
        return cls(" and ".join(one for one in single if one in named))


@dataclass(frozen=True, slots=True)
class BusyShares:
    """How long the resources of the fullest channel are busy, as shares of the program's time.

    The sum may exceed 1, since resources work at the same time. It may be below 1 where a program
    waits for latencies.

    Attributes:
        rows: rows that open while no multiply issues, and refresh.
        columns: the columns of all multiplies, at the DRAM's own pace.
        units: the multiplies, at the pace of the units or of the power budget.
        moves: fills of buffers and moves of sums, on the busiest of their buses.
        softmax: the softmax of all queries.
    """

    rows: float
    columns: float
    units: float
    moves: float
    softmax: float

    @property
    def limiter(self) -> Limiter:
        """The resource that is busy for most of the time, or the first two of nearly equal ones.

        Multiplies and the rows between them follow each other, so they count together.
        """
        busy: list[tuple[float, tuple[Limiter, ...]]] = [
            (self.rows + max(self.columns, self.units), self._of_multiplies),
            (self.moves, (Limiter.MOVES,)),
            (self.softmax, (Limiter.SOFTMAX,)),
        ]
        busy.sort(key=lambda one: one[0], reverse=True)
        most = busy[0][0]
        near = [name for share, names in busy if share >= (1 - NEAR) * most for name in names]
        return Limiter.of(tuple(near[:2]))

    @property
    def _of_multiplies(self) -> tuple[Limiter, ...]:
        """What holds the multiplies back: reads, units, or both."""
        if min(self.columns, self.units) >= (1 - NEAR) * max(self.columns, self.units):
            return Limiter.READS, Limiter.UNITS
        reads, units = self.rows, self.units
        if self.columns > self.units:
            reads, units = self.rows + self.columns, 0.0
        if min(reads, units) >= (1 - NEAR) * max(reads, units):
            return Limiter.READS, Limiter.UNITS
        return (Limiter.READS,) if reads > units else (Limiter.UNITS,)


def busy_shares(
    timed: TimedRun,
    device: DramDevice,
    layout: KeyLayout,
    tables: TimingTables,
    *,
    queries_per_read: int,
    fullest: float,
    softmax_cycles: int = 0,
) -> BusyShares:
    """Return how long the resources of the fullest channel are busy in a program.

    Commands count by their least distance, and rows by the time for which they keep the next
    multiply waiting. Where banks take turns, that is the time by which activates are further apart
    than the multiplies of one bank. A refresh of one bank counts for its share of the banks that
    open rows by themselves.

    Args:
        timed: the program, played on the device.
        device: the device.
        layout: how a key lies in the banks.
        tables: the device, resolved for the program.
        queries_per_read: queries that a unit multiplies with each column that it reads.
        fullest: share of all commands that go to the fullest channel.
        softmax_cycles: cycles of the command clock for which the softmax of that channel is busy.
    """
    pace = _pace(tables, layout)
    cycles = max(1, timed.cycles)

    def issued(code: Code) -> float:
        return timed.count(tables.names[code]) * fullest

    multiplies, activates = issued(Code.MULTIPLY), issued(Code.ACTIVATE)
    interval = tables.multiply_interval
    column = min(interval, device.column_interval(tables.placement))
    unit = interval
    if column == interval:
        unit = min(interval, device.unit_interval(queries_per_read, layout.element.bits))
    columns, units = multiplies * column / cycles, multiplies * unit / cycles
    run = min(layout.multiplies_per_bank, multiplies / max(1.0, activates))
    opening = pace.opening
    if layout.banks_in_turn > 1:
        opening = max(0.0, opening - run * interval)
    refreshing = timed.cycles // tables.refresh_interval * pace.refresh
    # The first row opens while the first query arrives.
    rows = (max(0.0, activates - 1) * opening + refreshing) / cycles
    return BusyShares(
        rows=max(0.0, min(rows, 1 - max(columns, units))),
        columns=columns,
        units=units,
        moves=sum(issued(code) * apart for code, apart in pace.moves) / cycles,
        softmax=softmax_cycles / cycles,
    )


@dataclass(frozen=True, slots=True)
class _Pace:
    """How fast commands follow each other, in cycles.

    Attributes:
        opening: what opening a row adds to the multiplies, or the distance of two activates where
            banks take turns.
        refresh: time for which a group of refreshes blocks its share of the banks.
        moves: mean distance of the moves of each kind.
    """

    opening: float
    refresh: float
    moves: tuple[tuple[Code, float], ...]


@lru_cache(maxsize=64)
def _pace(tables: TimingTables, layout: KeyLayout) -> _Pace:
    apart = tables.apart
    if layout.banks_in_turn == 1:
        opening = (
            apart(Code.MULTIPLY, Code.PRECHARGE, 0, 0)
            + apart(Code.PRECHARGE, Code.ACTIVATE, 0, 0)
            + apart(Code.ACTIVATE, Code.MULTIPLY, 0, 0)
            - tables.multiply_interval
        )
    else:
        each = layout.multiplies_per_bank
        address = int(layout.head(1).multiply_addresses(each + 1)[each])
        opening = apart(Code.ACTIVATE, Code.ACTIVATE, 0, address // layout.organization.bank_bytes)
    refresh = float(apart(Code.REFRESH, Code.ACTIVATE, 0, 0))
    if tables.refresh_per_bank:
        refresh /= tables.row_slots
    query, probabilities, scores, contexts = move_places(layout)
    places = {
        Code.WRGB: query,
        Code.MVSB: np.concatenate([scores, contexts]),
        Code.MVGB: probabilities,
        Code.SFM: np.zeros(1, dtype=np.int64),
    }
    moves = tuple((code, _spacing(tables, code, own)) for code, own in places.items())
    return _Pace(float(max(0, opening)), refresh, moves)


def _spacing(tables: TimingTables, code: Code, addresses: I64) -> float:
    """Return the mean distance of moves that go around addresses: of neighbours, or of next ones.

    Moves that alternate between two buses are as far apart as each bus asks for, halved.
    """
    banks = (addresses // tables.organization.bank_bytes).tolist()
    means: list[float] = []
    for lag in (1, 2):
        after = banks[lag % len(banks) :] + banks[: lag % len(banks)]
        pairs = list(zip(banks, after, strict=True))
        known = {pair: tables.apart(code, code, *pair) for pair in set(pairs)}
        means.append(sum(known[pair] for pair in pairs) / len(pairs) / lag)
    return max(means)
