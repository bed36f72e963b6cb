"""Programs that are not held in memory as a whole: fed piece by piece, or repeated and folded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attacc.errors import InputError
from attacc.pim.program.program import Program
from attacc.pim.timing.controllers import ControllerState, Stream
from attacc.pim.timing.engine import TimedRun, check_program, class_starts, count_by_name, pack
from attacc.pim.timing.tables import TimingTables

I64 = npt.NDArray[np.int64]

PIECE_STEPS = 1024
"""Steps that are played between two looks for a state that recurs."""


@dataclass(frozen=True, slots=True)
class RepeatedRun:
    """A repeated program played on a device.

    Attributes:
        timed: the timed run of all repetitions.
        repetitions: number of repetitions.
        played: number of repetitions that were played; the others recur and were counted.
    """

    timed: TimedRun
    repetitions: int
    played: int


def run_pieces(pieces: Iterable[Program], tables: TimingTables) -> TimedRun:
    """Play a program that comes in pieces, one after the other, without a pause between them.

    Holds one piece at a time: use a generator.

    Args:
        pieces: requests in order, without dependences.
        tables: the device, resolved for a placement and a cadence.

    Raises:
        InputError: as `attacc.pim.timing.engine.run`, or a piece has dependences.
    """
    starts = np.zeros(1, dtype=np.int64)
    end = tables.organization.channels
    state = ControllerState.at_start(_nothing(np.diff(starts, append=end)), tables)
    for piece in pieces:
        _check(piece, tables)
        finer = np.union1d(starts, class_starts(piece))
        if len(finer) > len(starts):
            classes = np.searchsorted(starts, finer, side="right") - 1
            state = state.split(classes, np.diff(finer, append=end))
            starts = finer
        state.play(_stream(piece, starts), tables, base=state.steps, more=True)
    return _finish(state, tables)


def run_repeated(
    body: Program, repetitions: int, tables: TimingTables, *, rows: int = 0, fold: bool = True
) -> RepeatedRun:
    """Play a program many times over, without a pause between repetitions.

    Once the controllers return to an earlier state, relative to the cycle and the rows, everything
    between the two states recurs, and is counted rather than played. The result is exact.

    Args:
        body: the program that is repeated, without dependences.
        repetitions: number of repetitions.
        tables: the device, resolved for a placement and a cadence.
        rows: number of rows by which each repetition is further on than the one before it, modulo
            the rows of a bank.
        fold: whether to look for states that recur.

    Raises:
        InputError: as `attacc.pim.timing.engine.run`; the body is empty or has dependences; or a
            number is negative.
    """
    _check(body, tables)
    if not len(body):
        raise InputError("there is nothing to repeat", where="body")
    for name, value in (("repetitions", repetitions), ("rows", rows)):
        if value < 0:
            raise InputError(f"{name} = {value} must not be negative")
    starts = class_starts(body)
    stream = _stream(body, starts)
    at_once = max(1, PIECE_STEPS // len(body))
    state = ControllerState.at_start(stream, tables)
    # Brent's cycle detection: compare with one state, which is replaced after 1, 2, 4, ... looks.
    before = state.copy()
    known = state.signature(tables, row=0)
    known_at = looks = 0
    limit = 1
    done = played = 0
    while done < repetitions:
        count = min(at_once, repetitions - done)
        keys = _repeated(stream.keys, done, count, rows, tables.organization.rows)
        piece = Stream(
            keys, np.tile(stream.first, count), np.tile(stream.last, count), 0, stream.width,
            np.zeros(0, dtype=np.int64), np.zeros((len(keys), 0), dtype=np.int32),
            np.zeros((len(keys), 0), dtype=np.int32), stream.producers,
        )  # fmt: skip
        state.play(piece, tables, base=state.steps, more=True)
        done += count
        played += count
        if fold and count == at_once:
            signature = state.signature(tables, row=done * rows)
            looks += 1
            if signature == known:
                period = done - known_at
                again = (repetitions - done) // period
                state.advance(before, again, tables, rows=period * rows)
                done += again * period
                fold = False
            elif looks == limit:
                before, known, known_at = state.copy(), signature, done
                looks = 0
                limit *= 2
    return RepeatedRun(_finish(state, tables), repetitions, played)


def _check(program: Program, tables: TimingTables) -> None:
    check_program(program, tables)
    if program.dependences is not None:
        raise InputError(
            "a piece of a program has dependences, which end with it",
            hint="play it as a whole, with attacc.pim.timing.engine.run",
        )


def _nothing(width: I64) -> Stream:
    """Return a stream of no requests."""
    none32, none64 = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int64)
    no_events = np.zeros((0, 0), dtype=np.int32)
    return Stream(
        none64, none32, none32, 0, width, none64, no_events, no_events, np.zeros(1, dtype=np.int32)
    )


def _stream(program: Program, starts: I64) -> Stream:
    """Pack a program for classes of channels with these first channels."""
    first = np.searchsorted(starts, program.first_channel.astype(np.int64)).astype(np.int32)
    ends = program.first_channel.astype(np.int64) + program.channels
    last = np.searchsorted(starts, ends).astype(np.int32)
    width = np.diff(starts, append=program.organization.channels)
    return pack(program, np.arange(len(program), dtype=np.int64), first, last, 0, width)


def _repeated(keys: I64, done: int, count: int, rows: int, all_rows: int) -> I64:
    """Return the keys of repetitions, each a number of rows further on than the one before."""
    from attacc.pim.timing import controller_kernel

    row = keys >> controller_kernel.ROW_SHIFT & controller_kernel.ROW_MASK
    shift = rows * (done + np.arange(count, dtype=np.int64))[:, np.newaxis] % all_rows
    moved = keys + ((row + shift) % all_rows - row << controller_kernel.ROW_SHIFT)
    is_multiply = keys & controller_kernel.CODE_MASK == controller_kernel.MULTIPLY
    return np.where(is_multiply, moved, keys).reshape(-1)


def _finish(state: ControllerState, tables: TimingTables) -> TimedRun:
    """Play to the end, and return the timed run."""
    state.play(_nothing(state.width), tables, base=state.steps)
    return TimedRun(
        cycles=state.cycle,
        time_ns=state.cycle * tables.clock_ns,
        commands=count_by_name(state.issued_by_all, tables),
    )
