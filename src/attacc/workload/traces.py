"""Recorded requests, read from files of many formats.

`attacc.workload.formats` has the formats; docs/reference/request-files.md lists them. The content
of a file tells its format. Files are plain or compressed with gzip.

Lengths, arrival times and shared prefixes are kept. Requests are in the order of their arrivals,
and those that arrive at once in the order of the file. Without arrival times they are in the order
of the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from attacc.errors import DocumentError, member
from attacc.files import read_data
from attacc.workload.formats.columns import Columns, Source, number
from attacc.workload.formats.registry import EXPECTED, read_format
from attacc.workload.requests import I64, Requests, Workload, WorkloadKind, ZeroOutput


def load_workload(path: Path, *, zero_output: ZeroOutput | str = ZeroOutput.ERROR) -> Workload:
    """Read the lengths of a file's requests, and how often each occurs.

    Args:
        path: the file, plain or compressed with gzip.
        zero_output: what becomes of requests that generated no token.

    Raises:
        DocumentError: as in `read_requests`.
        UnknownNameError: `zero_output` has no such value.
    """
    return read_requests(path, zero_output=zero_output).workload()


def read_requests(path: Path, *, zero_output: ZeroOutput | str = ZeroOutput.ERROR) -> Requests:
    """Read the requests of a file.

    Args:
        path: the file, plain or compressed with gzip.
        zero_output: what becomes of requests that generated no token. The result's `source` tells
            how many these are.

    Raises:
        DocumentError: the file is absent, unreadable, empty, of no known format, or has a
            malformed line; names the file, the line, the value and what is expected.
        UnknownNameError: `zero_output` has no such value.
    """
    where = str(path)
    chosen = member(ZeroOutput, zero_output, where="zero_output")
    told, columns = read_format(read_data(path), Source(where, chosen))
    if not len(columns.prompts):
        raise DocumentError("holds no requests", where=where, hint=EXPECTED)
    notes = list(columns.notes)
    columns = _without_zeros(columns, chosen, notes, where)
    columns = _in_order(columns, notes)
    return Requests(
        name=path.name,
        kind=WorkloadKind.TRACE,
        source="; ".join([f"{told}, {path.name}", *notes]),
        prompt_tokens=columns.prompts,
        output_tokens=columns.outputs,
        arrival_s=columns.times_s,
        prefix_hashes=columns.hashes,
    )


def _without_zeros(columns: Columns, chosen: ZeroOutput, notes: list[str], where: str) -> Columns:
    """Leave out requests without output, or count them as one token, and note how many."""
    is_zero = columns.outputs == 0
    zeros = int(np.count_nonzero(is_zero))
    if not zeros:
        return columns
    if chosen is ZeroOutput.ONE:
        notes.append(f"counted as one output token, for lack of any: {number(zeros)}")
        return columns._replace(outputs=np.maximum(columns.outputs, 1))
    if zeros == len(is_zero):
        raise DocumentError(
            "holds no requests with output tokens, and those without are left out",
            where=where,
            hint="zero_output='one' counts them as one token",
        )
    notes.append(f"left out, for lack of output tokens: {number(zeros)}")
    return _taken(columns, np.flatnonzero(~is_zero))


def _in_order(columns: Columns, notes: list[str]) -> Columns:
    """Sort requests by arrival, then by their place, and note whether that changed anything.

    Returns:
        Columns whose first arrival is at 0.
    """
    times_s = columns.times_s
    if times_s is None:
        return columns
    back = int(np.count_nonzero(np.diff(times_s) < 0))
    if back:
        notes.append(f"sorted by arrival; in the file, behind a later one: {number(back)}")
        columns = _taken(columns, np.argsort(times_s, kind="stable"))
    return columns._replace(times_s=columns.times_s - times_s.min())


def _taken(columns: Columns, rows: I64) -> Columns:
    """Return some requests in the order of their places."""
    return columns._replace(
        prompts=columns.prompts[rows],
        outputs=columns.outputs[rows],
        times_s=None if columns.times_s is None else columns.times_s[rows],
        hashes=None if columns.hashes is None else columns.hashes.take(rows),
    )
