"""Requests under the names that this package gives their columns.

The columns, or keys, are prompt_tokens, output_tokens and, where given, arrival_s (seconds) and
prefix_hashes (ids of blocks of 512 tokens). They stand in a CSV table, in a Parquet table, or in
JSON objects.

Two formats of text are read if these keys are added to them: prompts for vLLM's benchmark (its
custom data set), and ShareGPT's conversations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import numpy as np

from attacc.errors import DocumentError
from attacc.units import MAX_SIZE
from attacc.workload.formats.columns import (
    F64,
    MOST_TIME,
    Columns,
    RequestRows,
    Source,
    no_output,
    not_tokens,
    output_tokens,
    prompt_of,
    shown,
    time_of,
)
from attacc.workload.formats.lines import Ids, LineReader, Record, need
from attacc.workload.formats.mooncake import block_ids
from attacc.workload.formats.tables import SECONDS, TableFormat
from attacc.workload.prefixes import MOONCAKE_BLOCK_TOKENS, PrefixHashes, starts_of
from attacc.workload.requests import I64, ZeroOutput

if TYPE_CHECKING:
    import polars as pl

LENGTHS: Final = ("prompt_tokens", "output_tokens")
TIME: Final = "arrival_s"
HASHES: Final = "prefix_hashes"
_TEXTS: Final = {
    "conversations": "ShareGPT conversations, which hold text and no numbers of tokens",
    "prompt": "a prompt for vLLM's benchmark, which holds text and no number of tokens",
}
"""A key of a text -> what has it."""

PLAIN: Final = TableFormat(
    told="requests",
    time=TIME,
    prompt=LENGTHS[0],
    output=LENGTHS[1],
    read_time=SECONDS,
    needs_time=False,
)


class PlainLines(LineReader):
    """JSON objects with the package's own keys, which may hold a text beside them."""

    told = "requests"

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._rows = RequestRows(source)
        self._ids = Ids("id")

    @classmethod
    def knows(cls, record: Record) -> bool:
        """Return whether an object has a key of the format, or a known text."""
        return bool(record.keys() & {*LENGTHS, *_TEXTS})

    def add(self, record: Record, at: str) -> None:
        """Read a request."""
        refuse_text(set(record), at)
        need(record, LENGTHS, at)
        self._ids.check(record, at)
        time = record.get(TIME)
        if len(self._rows) and self._rows.is_timed != (time is not None):
            raise DocumentError(
                f"{TIME} is in some requests and missing in others",
                where=at,
                hint="give it for all requests, or for none",
            )
        output = output_tokens(record[LENGTHS[1]], LENGTHS[1], at, self.source)
        prompt = prompt_of(record[LENGTHS[0]], output, LENGTHS[0], at, self.source)
        ids = record.get(HASHES)
        self._rows.add(
            prompt,
            output,
            None if time is None else time_of(time, TIME, "seconds", at),
            [] if ids is None else block_ids(ids, HASHES, at),
        )

    def columns(self) -> Columns:
        """Return the requests so far."""
        return self._rows.columns()


def refuse_text(keys: set[str], at: str) -> None:
    """Refuse a request that has a known text and no numbers of tokens.

    Args:
        keys: the request's keys.
        at: its file and place, for messages.

    Raises:
        DocumentError: it is such a request.
    """
    if LENGTHS[0] in keys:
        return
    for key, what in _TEXTS.items():
        if key in keys:
            raise DocumentError(
                f"is {what}",
                where=at,
                hint="count the tokens of prompts and answers with the model's tokenizer, and "
                f"add them as {' and '.join(LENGTHS)}",
            )


def read_frame(frame: pl.DataFrame, source: Source) -> Columns:
    """Return the requests of a Parquet table.

    Args:
        frame: the table; columns of other names are read past.
        source: the file.

    Raises:
        DocumentError: a column is missing or holds another type, or a row holds no number of
            tokens, no time or no id; names the row, counted from 1.
    """
    for name in LENGTHS:
        if name not in frame.columns:
            raise DocumentError(
                f"has no column {name!r}",
                where=source.where,
                hint=f"expected {', '.join(LENGTHS)} and, where given, {TIME} and {HASHES}",
            )
    outputs = _output_column(frame[LENGTHS[1]], source)
    is_left_out = (outputs == 0) & (source.zero_output is ZeroOutput.SKIP)
    prompts = _whole_column(frame[LENGTHS[0]], source)
    wrong = np.flatnonzero((prompts < 1) & ~((prompts == 0) & is_left_out))
    if len(wrong):
        row = int(wrong[0])
        value = cast(object, frame[LENGTHS[0]][row])
        raise not_tokens(value, LENGTHS[0], _at(source, row))
    return Columns(
        prompts,
        outputs,
        _times(frame[TIME], source) if TIME in frame.columns else None,
        _hashes(frame[HASHES], source) if HASHES in frame.columns else None,
    )


def _at(source: Source, row: int) -> str:
    return f"{source.where}, row {row + 1}"


def _output_column(column: pl.Series, source: Source) -> I64:
    """Return output lengths; 0 only where the caller allows it."""
    outputs = _whole_column(column, source)
    is_refused = source.zero_output is ZeroOutput.ERROR
    wrong = np.flatnonzero((outputs < 0) | ((outputs == 0) & is_refused))
    if len(wrong):
        row = int(wrong[0])
        if outputs[row] == 0:
            raise no_output(column.name, _at(source, row))
        raise not_tokens(cast(object, column[row]), column.name, _at(source, row))
    return outputs


def _whole_column(column: pl.Series, source: Source) -> I64:
    """Return a column of counts; -1 where a row has none of at most 2^24."""
    import polars as pl

    if not column.dtype.is_integer():
        raise _other_type(column, "whole numbers", source)
    counts = column.cast(pl.Int64, strict=False).fill_null(-1)
    return counts.set((counts > MAX_SIZE) | (counts < 0), -1).to_numpy()


def _times(column: pl.Series, source: Source) -> F64:
    import polars as pl

    if not column.dtype.is_numeric():
        raise _other_type(column, "seconds", source)
    times = column.cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
    wrong = np.flatnonzero(~((times >= 0) & (times < MOST_TIME)))
    if len(wrong):
        row = int(wrong[0])
        raise DocumentError(
            f"{column.name} {shown(cast(object, column[row]))} is not a time",
            where=_at(source, row),
            hint="expected seconds, 0 or more",
        )
    return times - times[0] if len(times) else times


def _hashes(column: pl.Series, source: Source) -> PrefixHashes | None:
    """Return a column of lists of ids; an empty list, or none, shares nothing."""
    import polars as pl

    dtype = column.dtype
    if not isinstance(dtype, pl.List) or not (
        cast("pl.DataType", dtype.inner).is_integer() or dtype.inner == pl.Null
    ):
        raise _other_type(column, "lists of whole numbers", source)
    counts: I64 = column.list.len().fill_null(0).cast(pl.Int64).to_numpy()
    starts: I64 = starts_of(counts)
    if not starts[-1]:
        return None
    found = column.filter(pl.Series(counts > 0)).explode()
    ids = found.cast(pl.Int64, strict=False)
    wrong = ids.is_null().arg_true().to_list()
    if wrong:
        row = int(np.searchsorted(starts, int(wrong[0]), side="right")) - 1
        raise DocumentError(
            f"{column.name} has {shown(cast(object, found[wrong[0]]))}, which is no id of a block",
            where=_at(source, row),
            hint="expected whole numbers of 64 bits",
        )
    return PrefixHashes(ids.to_numpy(), starts, MOONCAKE_BLOCK_TOKENS)


def _other_type(column: pl.Series, wanted: str, source: Source) -> DocumentError:
    return DocumentError(
        f"the column {column.name!r} holds {column.dtype}, and not {wanted}", where=source.where
    )
