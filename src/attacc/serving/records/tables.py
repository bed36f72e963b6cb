"""Tables of a run as files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attacc.errors import InputError
from attacc.files import write_whole

if TYPE_CHECKING:
    import polars as pl

SUFFIXES: Final = (".parquet", ".csv", ".csv.gz")
"""Endings of tables that are written."""


def check_table_path(path: Path, *, where: str) -> Path:
    """Return the path of a table to write.

    Args:
        path: the path.
        where: the option or the argument that it came from, for messages.

    Raises:
        InputError: its ending names no kind of table.
    """
    if not path.name.endswith(SUFFIXES):
        raise InputError(
            f"{path.name!r:.80} names no kind of table",
            where=where,
            hint=f"let it end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}",
        )
    return path


def write_table(frame: pl.DataFrame, path: str | Path, *, where: str = "path") -> None:
    """Write a table, complete or not at all, as its name's ending says.

    Args:
        frame: the table.
        path: Parquet (``.parquet``), CSV (``.csv``) or CSV compressed with gzip (``.csv.gz``).
        where: as in `check_table_path`.

    Raises:
        InputError: as in `check_table_path`.
        DocumentError: the file cannot be written.
    """
    target, data = check_table_path(Path(path), where=where), io.BytesIO()
    if target.suffix == ".parquet":
        frame.write_parquet(data)
    else:
        frame.write_csv(data)
    write_whole(target, data.getvalue())
