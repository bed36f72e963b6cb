"""What every answer of the library can do: be a document, a table, and something to look at.

A result's ``to_dict()`` is what the command line prints as JSON. ``to_frame()`` is a table of it,
one row for each thing that the question is about: a system, a stack, a length. In a notebook a
result shows itself as that table.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import polars as pl
    from _typeshed import DataclassInstance


class Result(abc.ABC):
    """An answer of the library."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, as the command line prints it with ``--json``."""
        return dataclasses.asdict(cast("DataclassInstance", self))

    @abc.abstractmethod
    def table_rows(self) -> list[dict[str, Any]]:
        """Return the rows of its table: column -> value."""

    def to_frame(self) -> pl.DataFrame:
        """Return its table."""
        import polars as pl

        return pl.DataFrame(self.table_rows(), infer_schema_length=None, strict=False)

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        return self.to_frame()._repr_html_()  # pyright: ignore[reportPrivateUsage] - of notebooks


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
