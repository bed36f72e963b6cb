"""Reads one Parquet file in a process of its own.

A damaged Parquet file can make its reader panic, allocate without end or abort the process. So
`attacc.parquet` runs this file as a program. The program reads the Parquet file from
stdin, and writes the same table to stdout in Arrow's format. It imports nothing of attacc, so that
it starts fast.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Final

REFUSED: Final = 3
"""Exit status if Polars refuses the file. Then stdout holds the reason, in UTF-8."""
TOO_LARGE: Final = 4
"""Exit status if the table is larger than `MAX_UNPACKED_BYTES`."""
MEMORY_BYTES: Final = 4 * 2**30
"""Most address space of the process. Polars takes 1 GiB of it to start."""
PROCESSOR_S: Final = 120
"""Most seconds of processor time. The largest table known takes one."""
MAX_UNPACKED_BYTES: Final = 2**30
"""Most bytes of a table in memory. The largest table known takes 25 MB."""


def _limit() -> None:
    try:
        import resource
    except ImportError:  # no such limits on this platform
        return
    for kind, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, PROCESSOR_S),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(ValueError, OSError):  # a lower limit is set, or the platform has none
            resource.setrlimit(kind, (most, most))


def main() -> int:
    """Read stdin, write stdout, and return the exit status."""
    _limit()
    import polars as pl

    data = sys.stdin.buffer.read()
    try:
        frame = pl.read_parquet(data)
        if frame.estimated_size() > MAX_UNPACKED_BYTES:
            return TOO_LARGE
        frame.write_ipc(sys.stdout.buffer)
    except Exception as error:  # a panic of Polars is no exception, and ends this process
        sys.stdout.buffer.write(str(error).encode("utf-8", "replace")[:2000])
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
