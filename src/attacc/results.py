"""What every answer of the library can do: be a document, a table, and something to look at.

A result's ``to_dict()`` is what the command line prints as JSON. ``to_frame()`` is a table of the
result, with one row for each thing that the question is about: a system, a stack, a length. In a
notebook a result shows itself as that table. A `Listing` is an answer that consists of equal
records; its JSON is the list ``to_dicts()``.
"""

from __future__ import annotations

import abc
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from attacc.errors import InputError

if TYPE_CHECKING:
    import polars as pl
    from _typeshed import DataclassInstance


Progress = Callable[[str, int], None]
"""Is told the name of what comes next, and how many there are in all."""


def untold(name: str, total: int) -> None:
    """Tell nobody of the progress."""


R = TypeVar("R")


class Answer(abc.ABC):
    """What a question of the library is answered with: a document and a table."""

    __slots__ = ()

    @abc.abstractmethod
    def table_rows(self) -> list[dict[str, Any]]:
        """Return the rows of its table: column -> value."""

    @abc.abstractmethod
    def _document(self) -> object:
        """Return all of it as plain values."""

    def to_json(self) -> str:
        """Return the JSON document that the command line prints with ``--json``.

        Raises:
            InputError: a figure overflowed.
        """
        try:
            return json.dumps(self._document(), indent=2, allow_nan=False) + "\n"
        except ValueError:
            raise InputError(
                "a figure of the answer overflows",
                hint="a quantity of the input must be out of all proportion: look at its units",
            ) from None

    def to_frame(self) -> pl.DataFrame:
        """Return its table."""
        import polars as pl

        return pl.DataFrame(self.table_rows(), infer_schema_length=None, strict=False)

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        return self.to_frame()._repr_html_()  # pyright: ignore[reportPrivateUsage] - of notebooks


class Result(Answer):
    """An answer that is one record."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, as the command line prints it with ``--json``."""
        return dataclasses.asdict(cast("DataclassInstance", self))

    def _document(self) -> object:
        return self.to_dict()


class Listing(Answer, Sequence[R]):
    """An answer that is a list of equal records.

    Args:
        records: dataclasses, or results.
    """

    __slots__ = ("_records",)

    def __init__(self, records: Iterable[R]) -> None:
        self._records = tuple(records)

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[R]: ...
    def __getitem__(self, index: int | slice) -> R | Sequence[R]:
        """Return a record, or some of them."""
        return self._records[index]

    def __len__(self) -> int:
        """Return how many records there are."""
        return len(self._records)

    def __repr__(self) -> str:
        return f"Listing({list(self._records)!r})"

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return every record as plain values, as the command line prints them with ``--json``."""
        return [
            record.to_dict()
            if isinstance(record, Result)
            else dataclasses.asdict(cast("DataclassInstance", record))
            for record in self._records
        ]

    def _document(self) -> object:
        return self.to_dicts()

    def table_rows(self) -> list[dict[str, Any]]:
        """Return a row for each record; the rows of a result's own table where it has one."""
        return [
            row
            for record, plain in zip(self._records, self.to_dicts(), strict=True)
            for row in (record.table_rows() if isinstance(record, Result) else [flat(plain)])
        ]


def flat(record: Mapping[str, Any], *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a row of a nested document: keys of inner tables behind a dot, lists left out.

    Args:
        record: a document of plain values.
        without: keys to leave out.
    """
    row: dict[str, Any] = {}
    for key, value in record.items():
        if key in without or isinstance(value, (list, tuple)):
            continue
        if isinstance(value, Mapping):
            inner = flat(cast("Mapping[str, Any]", value))
            row |= {f"{key}.{name}": cell for name, cell in inner.items()}
        else:
            row[key] = value
    return row
