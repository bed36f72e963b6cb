"""The command log: what a controller issued and when, as records, in columns and as text.

A line of the text form is one command: cycle, name, channel, pseudo-channel, rank, bank group,
bank, row and column, separated by commas, with -1 for a field that a command does not have
(reference/controller.md; golden/command_logs). Controllers write logs and auditors read them; both
import this module and not each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attacc.errors import DocumentError
from attacc.files import read_data, rows_of, text_of, write_whole

if TYPE_CHECKING:
    import polars as pl

BARRIER: Final = "BARRIER"
"""Name in logs of a barrier that left its queue. It is no DRAM command and uses no bus."""

LOG_COLUMNS: Final = (
    "cycle", "command", "channel", "pseudo-channel", "rank", "bank group", "bank", "row", "column",
)  # fmt: skip
"""The cells of a line of a command log."""

_CELLS: Final = {"cycle": r"^[0-9]{1,18}$", "command": r"^[A-Za-z0-9_]+$"}
_NUMBER: Final = r"^-?[0-9]{1,18}$"
"""Pattern of the other cells of a log; numbers of 18 digits fit into 64 bits."""
_EXPECTED: Final = {
    "cycle": "a whole number from 0, of 18 digits at most",
    "command": "a name of letters, digits and underscores",
}


@dataclass(frozen=True, slots=True)
class LoggedCommand:
    """One command as a controller issued it.

    Attributes:
        cycle: cycle in which it issued; the first cycle is 1.
        command: name of the command.
        channel: channel that it was addressed to.
        pseudo_channel: pseudo-channel of its address; -1 for a command without one, likewise in
            the following fields.
        rank: rank of its address.
        bank_group: bank group of its address.
        bank: bank of its address.
        row: row of its address.
        column: column of its address.
        offset: byte within the column, by which moves into a vector buffer tell its accesses
            apart; -1 where it is not known, as in logs of the reference.
    """

    cycle: int
    command: str
    channel: int
    pseudo_channel: int
    rank: int
    bank_group: int
    bank: int
    row: int
    column: int
    offset: int = -1


@dataclass(frozen=True, eq=False)
class CommandLog:
    """The commands of a log file, in columns. Iterating makes one `LoggedCommand` at a time.

    Attributes:
        cells: a column for each attribute of `LoggedCommand`, in the same order.
    """

    cells: pl.DataFrame

    def __len__(self) -> int:
        """Return the number of commands."""
        return len(self.cells)

    def __iter__(self) -> Iterator[LoggedCommand]:
        """Yield the commands, in the order of the log."""
        return itertools.starmap(LoggedCommand, self.cells.iter_rows(buffer_size=2**13))

    @property
    def names(self) -> frozenset[str]:
        """Names of the commands in the log."""
        return frozenset(self.cells["command"].unique().to_list())


def read_log(path: Path) -> CommandLog:
    """Read a command log.

    The form of a line is that of this module. Blank lines, and rows of empty cells such as
    spreadsheets append, are ignored.

    Args:
        path: the file, plain or compressed with gzip.

    Raises:
        DocumentError: the file is absent, unreadable, or malformed at a line.
    """
    import polars as pl

    where = str(path)
    rows = rows_of(text_of(read_data(path), where=where), LOG_COLUMNS, where=where)
    sound = rows.cells.select(
        pl.col(name).str.contains(_CELLS.get(name, _NUMBER)) for name in LOG_COLUMNS
    )
    wrong = sound.select(~pl.all_horizontal(pl.all())).to_series()
    if wrong.any():
        row = wrong.arg_max() or 0
        name = next(name for name in LOG_COLUMNS if not sound[name][row])
        raise DocumentError(
            f"{name} {rows.cells[name][row]!r:.60} is not "
            + _EXPECTED.get(name, "a whole number, of 18 digits at most"),
            where=f"{where}:{rows.lines[row]}",
            hint=f"a line is {', '.join(LOG_COLUMNS)}, as in 1, ACTAB, 0, 0, 0, 0, 0, 8192, 0",
        )
    return CommandLog(
        rows.cells.select(
            pl.col(name) if name == "command" else pl.col(name).cast(pl.Int64)
            for name in LOG_COLUMNS
        )
    )


def write_log(path: Path, log: Iterable[LoggedCommand]) -> None:
    """Write a command log, one command a line (`attacc.files.write_whole`).

    Raises:
        DocumentError: the file cannot be written.
    """
    write_whole(path, "".join(map(_line, log)).encode("ascii"))


def _line(entry: LoggedCommand) -> str:
    return (
        f"{entry.cycle}, {entry.command}, {entry.channel}, {entry.pseudo_channel}, {entry.rank}, "
        f"{entry.bank_group}, {entry.bank}, {entry.row}, {entry.column}\n"
    )
