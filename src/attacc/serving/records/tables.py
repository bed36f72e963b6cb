"""Tables of a run as files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attacc.errors import InputError
from attacc.files import check_target, write_whole

if TYPE_CHECKING:
    import polars as pl

SUFFIXES: Final = (".parquet", ".csv", ".csv.gz")
"""Endings of tables that are written."""


def check_outputs(
    tables: Mapping[str, Path | None],
    documents: Mapping[str, Path | None],
    inputs: Iterable[Path] = (),
) -> None:
    """Refuse files that cannot be written, before anything is played.

    Args:
        tables: option or argument -> path of a table; None where there is none.
        documents: the same of files of other kinds.
        inputs: files that are read.

    Raises:
        InputError: a table's ending names no kind of table, a path is named twice, or as in
            `attacc.files.check_target`.
    """
    read, seen = [*inputs], dict[Path, str]()
    for option, path in (*tables.items(), *documents.items()):
        if path is None:
            continue
        if option in tables:
            _check_ending(path, option)
        check_target(path, option, read)
        other = seen.setdefault(path.resolve(), option)
        if other != option:
            raise InputError(
                f"{path} is also the file of {other}", where=option, hint="name another file"
            )


def _check_ending(path: Path, where: str) -> None:
    """Refuse a path whose ending names no kind of table."""
    if not path.name.endswith(SUFFIXES):
        raise InputError(
            f"{path.name!r:.80} names no kind of table",
            where=where,
            hint=f"let it end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}",
        )


def write_table(frame: pl.DataFrame, path: str | Path) -> None:
    """Write a table, complete or not at all, as its name's ending says.

    Args:
        frame: the table.
        path: Parquet (``.parquet``), CSV (``.csv``) or CSV compressed with gzip (``.csv.gz``).

    Raises:
        InputError: the ending names no kind of table.
        DocumentError: the file cannot be written.
    """
    target, data = Path(path), io.BytesIO()
    _check_ending(target, "path")
    if target.suffix == ".parquet":
        frame.write_parquet(data)
    else:
        frame.write_csv(data)
    write_whole(target, data.getvalue())
