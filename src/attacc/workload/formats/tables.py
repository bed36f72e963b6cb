"""Requests as rows of a comma-separated table, whose header tells the format."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import numpy as np

from attacc.errors import DocumentError
from attacc.files import Rows, header_of, rows_of
from attacc.units import DECIMAL, MAX_SIZE, NS_PER_S
from attacc.workload.formats.columns import (
    MOST_TIME,
    Columns,
    Source,
    Times,
    no_output,
    not_tokens,
)
from attacc.workload.requests import I64, ZeroOutput

if TYPE_CHECKING:
    import polars as pl

_DIGITS: Final = re.compile(rf"[0-9]{{1,{len(str(MAX_SIZE))}}}", re.ASCII)
_NUMBER: Final = re.compile(DECIMAL)
_FRACTION: Final = re.compile(r"[.,]([0-9]{6})([0-9])")
"""A fraction of a second that has more digits than microseconds."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_NO_ZONE: Final = _EPOCH.replace(tzinfo=None)
_MICROSECONDS: Final = len("2023-11-16 18:15:46.680590")
"""Length of a text that holds no more than microseconds."""
_TICKS_PER_S: Final = 10**7
_SLICE: Final = 2**16
"""Number of rows that exist as Python objects at a time."""
_MALFORMED: Final = -1


@dataclass(frozen=True, slots=True)
class TableFormat:
    """A format of rows.

    Attributes:
        told: the format in words, as in "trace in the Azure format".
        time: column of the times of arrival.
        prompt: column of the tokens of prompts.
        output: column of the tokens that were generated.
        read_time: how a text of the column of times is read.
        needs_time: whether the column of times must be there.
        no_output: why requests may have generated no token, for the hint; empty where they should
            not.
        notes: what else the file's other columns say, given all rows and the file's name.
    """

    told: str
    time: str
    prompt: str
    output: str
    read_time: ReadTime
    needs_time: bool = True
    no_output: str = ""
    notes: Callable[[Rows, str], tuple[str, ...]] = lambda _rows, _where: ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return (self.time, self.prompt, self.output)

    def likeness(self, header: Sequence[str]) -> int:
        """Return how many of the columns a header has, in capital letters or not."""
        return len({name.lower() for name in header} & {name.lower() for name in self.columns})


@dataclass(frozen=True, slots=True)
class ReadTime:
    """How texts become times.

    Attributes:
        read: text -> time as a whole number; raises ValueError where it is no time.
        per_s: units of that number in a second.
        what: what such a text is, for messages.
        example: what is expected, for hints.
    """

    read: Callable[[str], int]
    per_s: int
    what: str
    example: str


def _ticks(text: str) -> int:
    """Return a date and time in ISO format as 100 ns since 1970.

    A datetime has microseconds; the seventh digit of the fraction is read beside it.
    """
    time = datetime.fromisoformat(text)
    # A time without a zone is taken as UTC, so that no clock is ever set back.
    since = time - (_EPOCH if time.tzinfo else _EPOCH_NO_ZONE)
    ticks = (since.days * 86_400 + since.seconds) * _TICKS_PER_S + since.microseconds * 10
    fraction = _FRACTION.search(text) if len(text) > _MICROSECONDS else None
    if fraction is not None and int(fraction[1]) == time.microsecond:
        ticks += int(fraction[2])
    return ticks


def _nanoseconds(text: str) -> int:
    """Return a decimal number of seconds as nanoseconds."""
    if not _NUMBER.fullmatch(text) or not float(text) < MOST_TIME:
        raise ValueError(text)
    if not float(text):  # also a number whose exponent no Decimal has
        return 0
    return round(Decimal(text).scaleb(9))


DATES: Final = ReadTime(
    _ticks, _TICKS_PER_S, "a date and time", "one such as 2023-11-16 18:15:46.6805900"
)
"""Dates and times in ISO format, to 100 ns."""
SECONDS: Final = ReadTime(
    _nanoseconds, int(NS_PER_S), "a number of seconds", "seconds, 0 or more, such as 12.5"
)
"""Decimal seconds from any start, to 1 ns."""


def table_format(
    text: str, formats: Sequence[TableFormat], where: str, expected: str
) -> tuple[TableFormat, list[str], int]:
    """Return the format of a table, the names of its columns, and the number of the header's line.

    Args:
        text: the table.
        formats: known formats.
        where: the file's name, for messages.
        expected: what is expected, for hints.

    Raises:
        DocumentError: the table is empty, is of no known format, lacks a column, or has it twice.
    """
    header, line = header_of(text, where=where)
    at = f"{where}:{line}"
    if set(header) <= {""}:
        raise DocumentError("holds no requests", where=where, hint=expected)
    best = max(formats, key=lambda one: one.likeness(header))
    if not best.likeness(header):
        raise DocumentError(
            f"unknown format: {text.split(chr(10), line)[line - 1]!r:.60}", where=at, hint=expected
        )
    for column in best.columns:
        times = header.count(column)
        if times > 1 or (not times and (best.needs_time or column != best.time)):
            raise DocumentError(
                f"column {column!r} is there twice" if times else f"missing column {column!r}",
                where=at,
                hint=f"the first line must be {','.join(best.columns)}",
            )
    return best, header, line


def read_table(
    text: str, source: Source, found: TableFormat, header: Sequence[str], line: int
) -> Columns:
    """Return every row of a table.

    Args:
        text: the table.
        source: the file.
        found: its format.
        header: names of its columns.
        line: number of the header's line.

    Raises:
        DocumentError: a row is malformed; names its line, the column and the value.
    """
    where = source.where
    # Other columns may have any name, or none, and a name may be there more than once.
    names = [
        name if header.count(name) == 1 and name else f"{place}:{name}"
        for place, name in enumerate(header)
    ]
    rows = rows_of(text, names, where=where, after=line)
    prompt, output = rows.cells[found.prompt], rows.cells[found.output]
    prompts, outputs = counts_of(prompt), counts_of(output)
    bad_output = outputs < 0
    if source.zero_output is ZeroOutput.ERROR:
        bad_output |= outputs == 0
    bad_prompt = prompts < 1
    if source.zero_output is ZeroOutput.SKIP:  # a prompt that is left out may be empty
        bad_prompt &= (prompts < 0) | (outputs != 0)
    wrong = np.flatnonzero(bad_prompt | bad_output)
    times = Times(found.read_time.per_s)
    if found.time in header:
        last = int(wrong[0]) if len(wrong) else len(prompts) - 1
        _read_times(rows, found, times, last, where)
    if len(wrong):
        row = int(wrong[0])
        at = f"{where}:{rows.lines[row]}"
        if not bad_prompt[row] and outputs[row] == 0:
            raise no_output(found.output, at, found.no_output)
        name = found.prompt if bad_prompt[row] else found.output
        value: str = rows.cells[name][row]
        raise not_tokens(int(value) if _DIGITS.fullmatch(value) else value, name, at)
    has_times = found.time in header
    notes = found.notes(rows, where)
    return Columns(prompts, outputs, times.seconds() if has_times else None, notes=notes)


def _read_times(rows: Rows, found: TableFormat, times: Times, last: int, where: str) -> None:
    """Read the column of times up to a last row.

    Raises:
        DocumentError: a row has no time.
    """
    column, how = rows.cells[found.time], found.read_time
    for start in range(0, last + 1, _SLICE):
        texts: list[str] = column[start : min(start + _SLICE, last + 1)].to_list()
        for row, text in enumerate(texts, start):
            try:
                times.add(how.read(text))
            except (ValueError, ArithmeticError):
                raise DocumentError(
                    f"{found.time} {text!r:.60} is not {how.what}",
                    where=f"{where}:{rows.lines[row]}",
                    hint=f"expected {how.example}",
                ) from None


def counts_of(column: pl.Series) -> I64:
    """Return the counts in a column of texts; -1 for a cell without a number of at most 2^24."""
    import polars as pl

    cell = pl.col(column.name)
    # The cast alone would take signs too.
    number = pl.when(cell.str.contains(rf"^{_DIGITS.pattern}$")).then(cell).cast(pl.Int64)
    counts = column.to_frame().select(number).to_series().fill_null(_MALFORMED)
    return counts.set(counts > MAX_SIZE, _MALFORMED).to_numpy()
