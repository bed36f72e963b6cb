"""Programs that come in pieces, or are repeated and folded, against the same played as a whole."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.pim.program.program import MULTIPLY, AddressLayout, Dependences, Kind, Program
from attacc.pim.timing.engine import run
from attacc.pim.timing.pieces import run_pieces, run_repeated
from attacc.pim.timing.tables import TimingTables, resolve_timing

DEVICE = DRAMS.load("hbm3-5.2-asplos24")
ORGANIZATION = DEVICE.organization
LAYOUT = AddressLayout.of(ORGANIZATION)
TABLES = {p: resolve_timing(DEVICE, p, power_limited=True) for p in Placement}
MOVES = [Kind.WRGB, Kind.MVSB, Kind.MVGB, Kind.SFM, Kind.BARRIER]


@st.composite
def bodies(draw: st.DrawFn, placement: Placement, channels: int) -> Program:
    """Runs of multiplies on a few rows and banks, with moves and barriers between them."""
    kinds: list[int] = []
    addresses: list[int] = []
    first: list[int] = []
    width: list[int] = []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from([MULTIPLY[placement], MULTIPLY[placement], *MOVES]))
        count = draw(st.integers(1, 20))
        bank = draw(st.integers(0, ORGANIZATION.banks_per_channel - 1))
        row = draw(st.integers(0, 2))
        begin = draw(st.integers(0, channels - 1))
        kinds += [int(kind)] * count
        addresses += [bank << LAYOUT.bank | row << LAYOUT.row] * count
        first += [begin] * count
        width += [draw(st.integers(1, channels - begin))] * count
    return Program(
        ORGANIZATION, np.array(kinds, dtype=np.uint8), np.array(addresses, dtype=np.int64),
        np.array(first, dtype=np.int16), np.array(width, dtype=np.int16),
    )  # fmt: skip


def joined(pieces: list[Program]) -> Program:
    return Program(
        ORGANIZATION,
        np.concatenate([piece.kind for piece in pieces]),
        np.concatenate([piece.address for piece in pieces]),
        np.concatenate([piece.first_channel for piece in pieces]),
        np.concatenate([piece.channels for piece in pieces]),
    )


def moved(body: Program, rows: int) -> Program:
    """Return a program some rows on, modulo those of a bank."""
    row = body.address >> LAYOUT.row & (ORGANIZATION.rows - 1)
    address = body.address + ((row + rows) % ORGANIZATION.rows - row << LAYOUT.row)
    return Program(ORGANIZATION, body.kind, address, body.first_channel, body.channels)


@pytest.mark.parametrize("placement", list(Placement))
@given(data=st.data())
def test_pieces_are_played_as_the_whole(placement: Placement, data: st.DataObject) -> None:
    """Catches state that is lost between pieces, and classes of channels split too late."""
    pieces = [data.draw(bodies(placement, 4)) for _ in range(data.draw(st.integers(1, 4)))]
    whole = run(joined(pieces), TABLES[placement])
    timed = run_pieces(iter(pieces), TABLES[placement])
    assert (timed.cycles, timed.commands) == (whole.cycles, whole.commands)


@pytest.mark.parametrize("placement", list(Placement))
@given(data=st.data())
def test_folded_is_unfolded(placement: Placement, data: st.DataObject) -> None:
    """Catches states that are taken for the same, and counts or cycles lost by folding."""
    body = data.draw(bodies(placement, 2))
    rows = data.draw(st.sampled_from([0, 1, 3]))
    repetitions = data.draw(st.integers(0, 400))
    folded = run_repeated(body, repetitions, TABLES[placement], rows=rows)
    unfolded = run_repeated(body, repetitions, TABLES[placement], rows=rows, fold=False)
    assert folded.timed == unfolded.timed
    assert unfolded.played == repetitions >= folded.played


@given(data=st.data())
def test_repeated_is_the_whole(data: st.DataObject) -> None:
    """Catches rows that do not advance, or wrap wrongly, from one repetition to the next."""
    body = data.draw(bodies(Placement.BANK, 3))
    rows = data.draw(st.sampled_from([0, 1, ORGANIZATION.rows - 1]))
    repetitions = data.draw(st.integers(1, 20))
    whole = run(joined([moved(body, k * rows) for k in range(repetitions)]), TABLES[Placement.BANK])
    timed = run_repeated(body, repetitions, TABLES[Placement.BANK], rows=rows).timed
    assert (timed.cycles, timed.commands) == (whole.cycles, whole.commands)


def streamed_row(placement: Placement) -> Program:
    """All columns of one row, on all channels."""
    count = ORGANIZATION.columns
    return Program(
        ORGANIZATION, np.full(count, MULTIPLY[placement], dtype=np.uint8),
        np.arange(count, dtype=np.int64) << LAYOUT.column, np.zeros(count, dtype=np.int16),
        np.full(count, ORGANIZATION.channels, dtype=np.int16),
    )  # fmt: skip


@pytest.mark.untraced  # of a long program: it would take twice as long
def test_a_long_program_folds() -> None:
    """Catches a search that never finds the state that recurs."""
    rows = 2_000_000
    repeated = run_repeated(streamed_row(Placement.BANK), rows, TABLES[Placement.BANK], rows=1)
    assert repeated.played < rows // 2
    assert repeated.timed.count("MACAB") == rows * ORGANIZATION.columns * ORGANIZATION.channels
    assert repeated.repetitions == rows


def test_memory_does_not_grow_with_a_generated_program() -> None:
    """Catches pieces, or what was done with them, that are kept."""
    row = streamed_row(Placement.BANK)

    def pieces(count: int) -> Iterator[Program]:
        for k in range(count):
            yield moved(row, k)

    def peak(count: int, tables: TimingTables) -> int:
        tracemalloc.start()
        run_pieces(pieces(count), tables)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    few, many = (peak(count, TABLES[Placement.BANK]) for count in (20, 2000))
    assert many < 1.5 * few


def test_what_cannot_be_repeated_is_refused() -> None:
    """Catches bad input that loops for ever, or plays something else."""
    row = streamed_row(Placement.BANK)
    tables = TABLES[Placement.BANK]
    none = np.zeros((len(row), 0), dtype=np.int32)
    waits = np.zeros(len(row), dtype=np.int32)
    dependent = Program(
        ORGANIZATION, row.kind, row.address, row.first_channel, row.channels,
        Dependences(waits, none, none, 0),
    )  # fmt: skip
    empty = joined([Program(ORGANIZATION, row.kind[:0], row.address[:0], row.first_channel[:0],
                            row.channels[:0])])  # fmt: skip
    with pytest.raises(InputError, match="nothing to repeat"):
        run_repeated(empty, 3, tables)
    with pytest.raises(InputError, match="repetitions = -1"):
        run_repeated(row, -1, tables)
    with pytest.raises(InputError, match="rows = -2"):
        run_repeated(row, 3, tables, rows=-2)
    for refused in (
        lambda: run_repeated(dependent, 3, tables),
        lambda: run_pieces([dependent], tables),
    ):
        with pytest.raises(InputError, match="dependences"):
            refused()
    with pytest.raises(InputError, match="MACAB"):
        run_pieces([row], TABLES[Placement.BUFFER])
