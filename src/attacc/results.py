"""Answers of the library: each is a document, a table, and a table in a notebook.

``to_dict()`` of a `Result` is the JSON that the command line prints. ``to_frame()`` is a Polars
table. It has one row for each thing that the question is about, such as a system, a stack or a
length. A notebook shows an answer as that table. A `Listing` is an answer that consists of records
of one kind; its JSON is the list ``to_dicts()``.
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
"""A function that is called before each piece of work, with its name and the number of pieces."""


def untold(name: str, total: int) -> None:
    """Ignore the progress."""


R = TypeVar("R")


class Answer(abc.ABC):
    """An answer of the library: a document and a table."""

    __slots__ = ()

    @abc.abstractmethod
    def table_rows(self) -> list[dict[str, Any]]:
        """Return the rows of the table; each row maps columns to values."""

    @abc.abstractmethod
    def _document(self) -> object:
        """Return the whole answer as plain values."""

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
        """Return the answer as a table."""
        import polars as pl

        return pl.DataFrame(self.table_rows(), infer_schema_length=None, strict=False)

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        return self.to_frame()._repr_html_()  # pyright: ignore[reportPrivateUsage] - of notebooks


class Result(Answer):
    """An answer that consists of one record."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as plain values, as the command line prints it with ``--json``."""
        return dataclasses.asdict(cast("DataclassInstance", self))

    def _document(self) -> object:
        return self.to_dict()


class Listing(Answer, Sequence[R]):
    """An answer that is a list of records of one kind.

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
        """Return the number of records."""
        return len(self._records)

    def __repr__(self) -> str:
        return f"Listing({list(self._records)!r})"

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return each record as plain values, as the command line prints it with ``--json``."""
        return [
            record.to_dict()
            if isinstance(record, Result)
            else dataclasses.asdict(cast("DataclassInstance", record))
            for record in self._records
        ]

    def _document(self) -> object:
        return self.to_dicts()

    def table_rows(self) -> list[dict[str, Any]]:
        """Return one row for each record. A record that is a `Result` gives its own rows."""
        return [
            row
            for record, plain in zip(self._records, self.to_dicts(), strict=True)
            for row in (record.table_rows() if isinstance(record, Result) else [flat(plain)])
        ]


def flat(record: Mapping[str, Any], *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a nested document as one row, without its lists.

    The key of an inner table gets the outer key and a dot in front, as in ``energy.dram_pj``.

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
