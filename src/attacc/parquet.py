"""Parquet files that somebody else wrote.

Polars reads a Parquet file in a process of its own (`attacc.parquet_process`), because a damaged
file can end its reader.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from attacc import parquet_process
from attacc.errors import DocumentError

if TYPE_CHECKING:
    import polars as pl

PARQUET_MAGIC: Final = b"PAR1"
"""First and last bytes of a Parquet file."""
_PATIENCE_S: Final = 600.0
"""Seconds after which the process that reads a Parquet file is ended, should it only wait."""


def parquet_of(data: bytes, *, where: str) -> pl.DataFrame:
    """Return the table of a Parquet file.

    Args:
        data: the whole file.
        where: the file's name, for messages.

    Raises:
        DocumentError: the reader failed, in any way.
    """
    import polars as pl

    if len(data) < 3 * len(PARQUET_MAGIC) or not data.endswith(PARQUET_MAGIC):
        raise DocumentError("cannot be read: it is a Parquet file that was cut off", where=where)
    crashed = DocumentError(
        "cannot be read: it is a damaged Parquet file, which its reader did not survive",
        where=where,
        hint="write it again",
    )
    try:
        done = subprocess.run(  # noqa: S603 - this Python, and a file of this package
            # -P keeps modules beside that file from hiding other modules of the same name.
            [sys.executable, "-P", parquet_process.__file__],
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a panic prints its text there
            env={**os.environ, "POLARS_MAX_THREADS": "2"},
            timeout=_PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise crashed from None
    except OSError as error:
        raise DocumentError(
            f"cannot be read: no process could be started: {error.strerror}", where=where
        ) from None
    if done.returncode == parquet_process.REFUSED:
        reason = " ".join(done.stdout.decode("utf-8", "replace").split())
        raise DocumentError(f"cannot be read: {reason:.200}", where=where)
    if done.returncode == parquet_process.TOO_LARGE:
        most = parquet_process.MAX_UNPACKED_BYTES / 2**20
        raise DocumentError(
            f"unpacks to more than {most:,.0f} MiB, the most that is read",
            where=where,
            hint="split it",
        )
    if done.returncode:
        raise crashed
    return pl.read_ipc(io.BytesIO(done.stdout))
