"""Tables of users' measurements: CSV and Parquet files, as columns of text and of numbers.

`open_table` opens every table. The first bytes of a file tell its kind. `attacc.parquet` reads a
Parquet file. Any other file is read as CSV, with every field as text. The caller decides whether a
column holds text or numbers. The first rows do not decide it: a version 0.10 must not become 0.1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from attacc.errors import DocumentError, nearest_hint
from attacc.files import header_of, read_data, rows_of, text_of
from attacc.gpu.calibrated.limits import Floats
from attacc.parquet import PARQUET_MAGIC, parquet_of
from attacc.units import DECIMAL

if TYPE_CHECKING:
    import polars as pl

Flags = NDArray[np.bool_]
MAX_TABLE_BYTES: Final = 2**28
"""Most bytes of a table, after gzip is unpacked."""
SUFFIXES: Final = (".csv", ".parquet", "")
"""Suffixes of tables, each with or without .gz. A pipe has no suffix."""
EMPTY: Final = ("", "nan", "null", "none")
"""Texts of a field that count as empty, in small letters."""
_NUMBER: Final = f"^[+-]?{DECIMAL}$"


@dataclass(frozen=True, slots=True)
class Numbers:
    """A column of numbers.

    Attributes:
        values: the numbers; not a number where the field is empty or holds anything else.
        empty: whether each field is empty.
    """

    values: Floats
    empty: Flags


@dataclass(frozen=True, slots=True)
class Allowed:
    """The range of a measured quantity. A row with a value outside it is a mistake.

    Attributes:
        low: the least value.
        high: the largest value.
        whole: whether the quantity is a count.
    """

    low: float
    high: float
    whole: bool = True

    def faults(self, numbers: Numbers) -> Iterator[tuple[Flags, str]]:
        """Return each reason with the values that it rules out, the first reason first."""
        values = numbers.values
        yield ~np.isfinite(values), "no number"
        if self.low < 1:
            yield values <= 0, "not positive"
        yield values < self.low, f"below {self.low:g}"
        yield values > self.high, f"above {self.high:g}"
        if self.whole:
            yield values != np.floor(values), "no whole number"


@dataclass(slots=True)
class Reasons:
    """The rows that cannot be used, each with its first reason.

    Attributes:
        rows: number of all rows.
    """

    rows: int
    _told: list[str] = field(default_factory=list[str])
    _which: NDArray[np.intp] = field(init=False)

    def __post_init__(self) -> None:
        self._which = np.full(self.rows, -1)

    def add(self, bad: Flags, reason: str) -> None:
        """Leave rows out for a reason, except rows that have a reason already."""
        first = bad & (self._which < 0)
        if first.any():
            self._which[first] = len(self._told)
            self._told.append(reason)

    @property
    def usable(self) -> Flags:
        """Which rows can be used."""
        return self._which < 0

    def of(self, row: int) -> str:
        """Return the reason why a row cannot be used; empty where it can."""
        place = int(self._which[row])
        return "" if place < 0 else self._told[place]

    def counts(self, rows: NDArray[np.intp]) -> dict[str, int]:
        """Return the number of rows that are left out, by reason, among some rows."""
        found = Counter(int(place) for place in self._which[rows] if place >= 0)
        return {self._told[place]: found[place] for place in sorted(found)}


@dataclass(frozen=True, slots=True)
class Table:
    """A table with any columns and at least one row.

    Attributes:
        path: the file of the table.
        frame: the columns. Their names have no blanks at their ends, and all differ.
    """

    path: Path
    frame: pl.DataFrame

    @property
    def where(self) -> str:
        """The file's name, for messages."""
        return str(self.path)

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return self.frame.columns

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.frame.height

    def take(self, chosen: Flags) -> Table:
        """Return the table of some of its rows."""
        return self if chosen.all() else Table(self.path, self.frame.filter(chosen))

    def require(self, needed: Iterable[str]) -> None:
        """Refuse a table that lacks one of some columns.

        Raises:
            DocumentError: a column is missing.
        """
        for column in needed:
            if column not in self.columns:
                raise DocumentError(f"has no column {column!r}", where=self.where)

    def allow(self, known: Iterable[str]) -> None:
        """Refuse unknown columns, because they may change the meaning of the measurements.

        Raises:
            DocumentError: the table has an unknown column.
        """
        choices = list(known)
        for column in self.columns:
            if column not in choices:
                raise DocumentError(
                    f"has the column {column!r:.60}, which attacc does not know; it may change "
                    "what was measured",
                    where=self.where,
                    hint="leave the column out if it does not; " + nearest_hint(column, choices),
                )

    def texts(self, column: str) -> pl.Series:
        """Return a column of text without blanks at the ends; empty texts for a missing column.

        Raises:
            DocumentError: the column does not hold text.
        """
        import polars as pl

        values = self.frame[column]
        if not isinstance(values.dtype, pl.String | pl.Categorical | pl.Enum | pl.Null):
            raise DocumentError(
                f"the column {column!r} holds {values.dtype}, and not text", where=self.where
            )
        return values.cast(pl.String).fill_null("").str.strip_chars()

    def numbers(self, column: str) -> Numbers:
        """Return a column of numbers.

        Raises:
            DocumentError: the column holds other values, such as dates or lists.
        """
        import polars as pl

        values = self.frame[column]
        if values.dtype.is_numeric():
            found = values.cast(pl.Float64, strict=False)
            empty = found.is_null() | found.is_nan().fill_null(value=True)
        else:
            try:
                text = self.texts(column)
            except DocumentError:
                raise DocumentError(
                    f"the column {column!r} holds {values.dtype}, and not numbers",
                    where=self.where,
                ) from None
            empty = text.str.to_lowercase().is_in(EMPTY)
            is_number = text.str.contains(_NUMBER)
            found = text.set(~is_number, None).cast(pl.Float64, strict=False)
        return Numbers(
            np.ascontiguousarray(found.fill_null(np.nan).to_numpy(), dtype=np.float64),
            np.ascontiguousarray(empty.to_numpy(), dtype=np.bool_),
        )

    def quantities(
        self,
        wanted: Mapping[str, Allowed],
        optional: Sequence[str],
        reasons: Reasons,
    ) -> dict[str, Floats]:
        """Return columns of numbers, and leave out the rows in which one of them is impossible.

        Args:
            wanted: column -> range of its values.
            optional: columns that may be absent, or empty in a row. Their value is then not a
                number.
            reasons: gets the rows that are left out.
        """
        found: dict[str, Floats] = {}
        for column, quantity in wanted.items():
            if column in optional and column not in self.columns:
                found[column] = np.full(self.rows, np.nan)
                continue
            numbers = self.numbers(column)
            found[column] = numbers.values
            for bad, reason in quantity.faults(numbers):
                left = bad & ~numbers.empty if column in optional else bad
                reasons.add(left, f"{column} is {reason}")
        return found


def open_table(path: Path) -> Table:
    """Read a table of any columns.

    Args:
        path: a Parquet or CSV file, or a pipe with such a file; both may be packed with gzip.

    Raises:
        DocumentError: the file cannot be read, is of another kind, is damaged, has no rows, or has
            two columns of one name.
    """
    name = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    if name.suffix.lower() not in SUFFIXES:
        raise DocumentError(
            f"unknown file kind {name.suffix!r}", where=str(path), hint="use .parquet or .csv"
        )
    where = str(path)
    data = read_data(path, limit=MAX_TABLE_BYTES)
    is_parquet = data.startswith(PARQUET_MAGIC)
    frame = _parquet(data, where) if is_parquet else _csv(text_of(data, where=where), where)
    if not frame.height:
        raise DocumentError("has no rows", where=where)
    return Table(path, frame)


def _refuse_twice(names: Sequence[str], where: str) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise DocumentError(
            f"has {names.count(twice[0])} columns called {twice[0]!r:.60}",
            where=where,
            hint="name every column, and each differently",
        )


def _csv(text: str, where: str) -> pl.DataFrame:
    """Return the table of a CSV file, with every field as text."""
    header, line = header_of(text, where=where)
    names = list(header)
    while names and not names[-1]:  # spreadsheets append columns of empty fields
        del names[-1]
    if not names:
        raise DocumentError("is empty", where=where)
    if len(names) == 1 and (found := [mark for mark in ";\t|" if mark in names[0]]):
        raise DocumentError(
            f"its header has no comma, and holds {found[0]!r}",
            where=where,
            hint="separate fields by commas, and write decimals with a point",
        )
    if len(header) == 1:
        raise DocumentError(f"has one column, {names[0]!r:.60}, and no other", where=where)
    _refuse_twice(names, where)
    unnamed = [f"{place}:" for place in range(len(names), len(header))]
    rows = rows_of(text, [*names, *unnamed], where=where, after=line)
    for column in unnamed:
        filled = (rows.cells[column] != "").arg_true()
        if len(filled):
            raise DocumentError(
                f"{rows.cells[column][filled[0]]!r:.60} is in a column without a name",
                where=f"{where}:{rows.lines[filled[0]]}",
                hint="name the column in the header",
            )
    return rows.cells.select(names)


def _parquet(data: bytes, where: str) -> pl.DataFrame:
    """Return the table of a Parquet file, with names without blanks at their ends."""
    frame = parquet_of(data, where=where)
    names = [column.strip() for column in frame.columns]
    _refuse_twice(names, where)
    frame.columns = names
    return frame
